// Measured durations of a job's phases, and estimates from them.
import { median } from './median.ts'

const PHASES = ['load', 'encode', 'step', 'decode'] as const
export type Phase = (typeof PHASES)[number]

/** The properties of a job that its durations depend on. */
export type Shape = {
  group: string
  pixels: number
  /** Evaluations of the denoiser per step, of the device that has the most: 2 with guidance on one device. */
  samples: number
  /** Devices that divide the samples. */
  devices: number
}
/** The work of a job that is left. */
export type Work = { encode: number; step: number; decode: number }

/** Number of durations per median: few, so that it follows a change quickly. The median ignores the slow first run of a shape. */
const REMEMBERED = 9
/** Maximum number of shapes, which bounds the memory for callers with many sizes. */
const MOST_SHAPES = 512
/** The estimate before the first measurement. */
const UNKNOWN_MS: Record<Phase, number> = { load: 0, encode: 100, step: 100, decode: 100 }

type Recorded = Shape & { durations: Record<Phase, number[]> }

export class StepTimes {
  /** By shape, least recently measured first. */
  readonly #shapes = new Map<string, Recorded>()

  record(shape: Shape, phase: Phase, ms: number): void {
    const key = keyOf(shape)
    const recorded = this.#shapes.get(key) ?? { ...shape, durations: { load: [], encode: [], step: [], decode: [] } }
    this.#shapes.delete(key)
    this.#shapes.set(key, recorded)
    const durations = recorded.durations[phase]
    durations.push(ms)
    if (durations.length > REMEMBERED) durations.shift()
    if (this.#shapes.size > MOST_SHAPES) this.#shapes.delete(this.#shapes.keys().next().value!)
  }

  /** Median milliseconds of a phase for this shape; if unmeasured, those of the nearest size in the same group, scaled to this shape. */
  estimate(shape: Shape, phase: Phase): number {
    const own = this.#shapes.get(keyOf(shape))?.durations[phase]
    if (own && own.length > 0) return median(own)
    const near = this.#nearest(shape, phase)
    if (!near) return UNKNOWN_MS[phase]
    const scale = phase === 'encode' || phase === 'load' ? 1 : shape.pixels / near.pixels
    const samples = phase === 'step' ? shape.samples / near.samples : 1
    return median(near.durations[phase]) * scale * samples
  }

  /** Milliseconds that the work takes on the device. */
  total(shape: Shape, { encode, step, decode }: Work): number {
    const of = (phase: Phase, count: number) => (count === 0 ? 0 : count * this.estimate(shape, phase))
    return of('encode', encode) + of('step', step) + of('decode', decode)
  }

  #nearest({ group, pixels }: Shape, phase: Phase): Recorded | undefined {
    const distance = (each: Recorded) => Math.abs(Math.log(each.pixels / pixels))
    return [...this.#shapes.values()]
      .filter((each) => each.group === group && each.durations[phase].length > 0)
      .sort((a, b) => distance(a) - distance(b))[0]
  }
}

const keyOf = ({ group, pixels, samples, devices }: Shape) => `${group} ${pixels} ${samples} ${devices}`

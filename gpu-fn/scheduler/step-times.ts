// Measured durations of phases, and estimates from them.
import { median } from './median.ts'

const PHASES = ['load', 'encode', 'step', 'decode'] as const
export type Phase = (typeof PHASES)[number]

/** Determinants of a phase's duration. */
export type Shape = {
  group: string
  pixels: number
  /** Evaluations of a step on the busiest device (2 with guidance on one device); in other phases, the number of prompts or images. */
  samples: number
  /** Devices that divide the samples. */
  devices: number
  /** Number of ControlNets in the phase. */
  controls: number
}

/** Number of durations per median: few, so that it follows a change quickly. The median ignores the slow first run of a shape. */
const REMEMBERED = 9
/** Maximum number of shapes, which bounds the memory for callers with many sizes. */
const MAX_SHAPES = 512
/** The estimate before the first measurement. */
const UNKNOWN_MS: Record<Phase, number> = { load: 0, encode: 100, step: 100, decode: 100 }

type RecordedDurations = Shape & { durations: Record<Phase, number[]> }

export class StepTimes {
  /** By shape, least recently measured first. */
  readonly #shapes = new Map<string, RecordedDurations>()

  record(shape: Shape, phase: Phase, ms: number): void {
    const key = keyOf(shape)
    const recorded = this.#shapes.get(key) ?? { ...shape, durations: { load: [], encode: [], step: [], decode: [] } }
    this.#shapes.delete(key)
    this.#shapes.set(key, recorded)
    const durations = recorded.durations[phase]
    durations.push(ms)
    if (durations.length > REMEMBERED) durations.shift()
    if (this.#shapes.size > MAX_SHAPES) this.#shapes.delete(this.#shapes.keys().next().value!)
  }

  /** Median duration of a phase in milliseconds. For an unmeasured shape, that of the nearest shape in the group, scaled. */
  estimate(shape: Shape, phase: Phase): number {
    const own = this.#shapes.get(keyOf(shape))?.durations[phase]
    if (own && own.length > 0) return median(own)
    const near = this.#nearest(shape, phase)
    if (!near) return UNKNOWN_MS[phase]
    const scale = phase === 'encode' || phase === 'load' ? 1 : shape.pixels / near.pixels
    const samples = phase === 'step' ? shape.samples / near.samples : 1
    return median(near.durations[phase]) * scale * samples
  }

  /** The nearest measurement: by number of ControlNets, then by image size, then by number of samples. */
  #nearest({ group, pixels, samples, controls }: Shape, phase: Phase): RecordedDurations | undefined {
    const measureDistances = (each: RecordedDurations) => [
      Math.abs(each.controls - controls),
      Math.abs(Math.log(each.pixels / pixels)),
      Math.abs(Math.log(each.samples / samples)),
    ]
    return [...this.#shapes.values()]
      .filter((each) => each.group === group && each.durations[phase].length > 0)
      .map((each) => ({ each, own: measureDistances(each) }))
      .sort((a, b) => a.own.map((value, i) => value - b.own[i]!).find((difference) => difference !== 0) ?? 0)[0]?.each
  }
}

const keyOf = ({ group, pixels, samples, devices, controls }: Shape) =>
  `${group} ${pixels} ${samples} ${devices} ${controls}`

// Cost of adapters (LoRAs): a step with two of them relative to none, and the time of a change; and what FP8 costs in quality.
import type { Adapter } from '../../../gpu-fn/engine/package/adapters.ts'
import { type OpenPipeline, openPipeline } from '../../../gpu-fn/engine/package/open-pipeline.ts'
import type { LoraPackage } from '../../../gpu-fn/manifest.ts'
import { txt2img } from '../../../gpu-fn/pipeline/txt2img.ts'
import { type UpdateTimes, updateTimes } from '../../../gpu-fn/runtime/update/on-device.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { makeScratch } from '../../command/scratch.ts'
import { type GpuVariant, preparePackage, type Target } from '../gpu/packages.ts'
import { median } from '../statistics.ts'
import { reportPsnr } from './lora-psnr.ts'
import { createRandomLora } from './random-lora.ts'

export type LoraBenchOptions = {
  /** `nano`, or an architecture with random weights. */
  readonly model: GpuVariant | 'nano'
  readonly target: Target
  readonly directory: string
  readonly size: number
  readonly rank: number
  readonly steps: number
  readonly rounds: number
}

/** Prompts and seeds of the images for the PSNR of FP8. */
const EXAMPLES = [
  { prompt: 'a red heart on a blue background', seed: 1 },
  { prompt: 'an octopus in the sea', seed: 5 },
  { prompt: 'a cat on grass', seed: 7 },
  { prompt: 'a house in the snow', seed: 42 },
  { prompt: 'blueprint, a sailboat', seed: 3 },
  { prompt: 'a green car in a city', seed: 11 },
]

/** Prints the median step without and with two adapters, measured alternately, and the seconds of each kind of change. */
export async function benchLora(options: LoraBenchOptions): Promise<void> {
  await using scratch = makeScratch('octet-lora-')
  const directory = await preparePackage(options)
  const pkg = await openPackage(directory)
  const pipeline = await openPipeline(pkg)
  try {
    const [a, b] = [
      await createRandomLora(scratch.directory, pkg.manifest, options.rank, 1),
      await createRandomLora(scratch.directory, pkg.manifest, options.rank, 2),
    ]
    const sets: Record<string, Adapter[]> = {
      none: [],
      two: [
        { lora: a, scale: 0.7 },
        { lora: b, scale: 0.3 },
      ],
      other: [{ lora: b, scale: 1 }],
    }
    const changes: Record<string, Change[]> = {}
    const steps: Record<string, number[]> = { none: [], two: [], other: [] }
    await stepsOf(pipeline, options)
    for (let round = 0; round < options.rounds; round++) {
      for (const [name, before] of [
        ['two', 'none'],
        ['other', 'two'],
        ['none', 'other'],
      ] as const) {
        const change = `${before} to ${name}`
        changes[change] = [...(changes[change] ?? []), await timeChange(pipeline, sets[name]!, options)]
        steps[name]!.push(...(await stepsOf(pipeline, options)))
      }
    }
    report(options, a, steps, changes)
  } finally {
    await pipeline.release()
  }
  if (options.model === 'nano') await reportPsnr(EXAMPLES)
}

/** Durations of a change, in seconds. `total`: delay of the next image. `adapt`: weight update. The others: wait times of the update on a GPU. */
type Change = UpdateTimes & { readonly total: number; readonly adapt: number }

async function timeChange(pipeline: OpenPipeline, adapters: Adapter[], options: LoraBenchOptions): Promise<Change> {
  const waits: UpdateTimes = { factors: 0, restoration: 0, runs: 0 }
  const add = (message: unknown) => {
    for (const [what, seconds] of Object.entries(message as UpdateTimes)) waits[what as keyof UpdateTimes] += seconds
  }
  updateTimes.subscribe(add)
  try {
    const start = performance.now()
    await pipeline.adapt(adapters)
    const adapted = performance.now()
    // On a CPU, the next run opens the networks again.
    await stepsOf(pipeline, { ...options, steps: 1 })
    const first = performance.now()
    await stepsOf(pipeline, { ...options, steps: 1 })
    const image = performance.now() - first
    return { ...waits, adapt: (adapted - start) / 1000, total: (first - start - image) / 1000 }
  } finally {
    updateTimes.unsubscribe(add)
  }
}

function report(
  { model, target, size, rank }: LoraBenchOptions,
  { manifest }: LoraPackage,
  steps: Record<string, number[]>,
  changes: Record<string, Change[]>,
): void {
  const [none, two] = [median(steps.none!), median(steps.two!)]
  console.log(`${model}, ${target}, ${size}², two adapters of rank ${rank} on ${manifest.modules.length} modules`)
  console.log(`step: ${none.toFixed(1)} ms without, ${two.toFixed(1)} ms with two: ${(two / none).toFixed(3)} ×`)
  for (const [name, times] of Object.entries(changes)) {
    const of = (what: keyof Change) => median(times.map((time) => time[what])).toFixed(3)
    console.log(`change from ${name}: ${of('total')} s, first ${times[0]!.total.toFixed(3)} s`)
    const waits = `factors ${of('factors')}, restored weights ${of('restoration')}, runs ${of('runs')}`
    console.log(`  weight update ${of('adapt')} s; wait times in s: ${waits}`)
  }
}

/** Milliseconds of each step of an image. */
async function stepsOf(
  pipeline: OpenPipeline,
  { size, steps }: Pick<LoraBenchOptions, 'size' | 'steps'>,
): Promise<number[]> {
  const request = { prompt: 'a red heart on a blue sky', negative_prompt: '', steps, seed: 1, count: 1 }
  const output = { output_format: 'jpeg', output_quality: 80, text_convention: 'diffusers' } as const
  const image = { ...request, ...output, width: size, height: size, guidance_scale: 1 }
  const times: number[] = []
  let since = performance.now()
  for await (const event of txt2img(pipeline, image, new AbortController().signal)) {
    if (event.type === 'step') times.push(performance.now() - since)
    since = performance.now()
  }
  return times
}

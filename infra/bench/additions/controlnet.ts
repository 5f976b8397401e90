// Cost of a ControlNet: a step with it relative to one without, before and after its use.
import fs from 'node:fs/promises'
import path from 'node:path'
import { compileControlnet } from '../../../gpu-fn/compile/controlnet.ts'
import { type OpenPipeline, openPipeline } from '../../../gpu-fn/engine/package/open-pipeline.ts'
import type { ControlnetPackage } from '../../../gpu-fn/manifest.ts'
import { txt2img } from '../../../gpu-fn/pipeline/txt2img.ts'
import { openControlnet } from '../../../gpu-fn/weights/additions/controlnet-packages.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { writeFullSizeControlnet } from '../../checkpoints/full-size.ts'
import { writeTinyControlnet } from '../../checkpoints/tiny/controlnet.ts'
import { makeOnce } from '../../local/models/package-cache.ts'
import { makeCheckpoint, makePackage, type Target } from '../gpu/packages.ts'
import { median } from '../statistics.ts'

export type ControlnetBenchOptions = {
  readonly model: 'large' | 'tiny-large'
  readonly target: Target
  readonly directory: string
  readonly size: number
  readonly steps: number
  readonly rounds: number
}

/** Prints the median step of each kind, in one process, and the seconds of the ControlNet's first use. */
export async function benchControlnet(options: ControlnetBenchOptions): Promise<void> {
  const { model, target, directory, size, rounds } = options
  const own = path.join(directory, model)
  await makeCheckpoint(model, own)
  const pkg = await openPackage(await makePackage({ variant: model, target, tier: 'fp8' }, own))
  const controlnet = await openControlnet(await makeControlnet(options, own))
  const pipeline = await openPipeline(pkg)
  try {
    await stepsOf(pipeline, options)
    const before = await repeat(rounds, () => stepsOf(pipeline, options))
    const start = performance.now()
    const [first] = await stepsOf(pipeline, { ...options, steps: 1 }, controlnet)
    const opening = (performance.now() - start) / 1000
    const during = await repeat(rounds, () => stepsOf(pipeline, options, controlnet))
    const after = await repeat(rounds, () => stepsOf(pipeline, options))
    const [plain, guided, again] = [before, during, after].map(median) as [number, number, number]
    console.log(`${model}, ${target}, ${size}², fp8, a ControlNet of ${controlnet.manifest.shape.layers} blocks`)
    console.log(`step: ${plain.toFixed(1)} ms without, ${guided.toFixed(1)} ms with: ${(guided / plain).toFixed(2)} ×`)
    console.log(`step without, after its use: ${again.toFixed(1)} ms: ${(again / plain).toFixed(3)} ×`)
    console.log(
      `first image with the ControlNet: ${opening.toFixed(2)} s, of which its step takes ${first!.toFixed(1)} ms`,
    )
  } finally {
    await pipeline.release()
  }
}

async function makeControlnet({ model, target }: ControlnetBenchOptions, directory: string): Promise<string> {
  const file = path.join(directory, 'controlnet-checkpoint', 'controlnet.safetensors')
  const checkpoint = model === 'large' ? file : path.dirname(file)
  await makeOnce(path.dirname(file), async (out) => {
    if (model === 'large') await writeFullSizeControlnet(path.join(out, path.basename(file)))
    else await writeTinyControlnet(out)
  })
  const out = path.join(directory, `${target}-controlnet`, 'package')
  await fs.mkdir(path.dirname(out), { recursive: true })
  await makeOnce(out, async (at) => {
    await compileControlnet({ controlnet: checkpoint, out: at, tier: 'fp8', target, type: 'depth', name: 'bench' })
  })
  return out
}

async function repeat(rounds: number, measure: () => Promise<number[]>): Promise<number[]> {
  const all: number[] = []
  for (let round = 0; round < rounds; round++) all.push(...(await measure()))
  return all
}

/** Milliseconds of each step of an image. */
async function stepsOf(
  pipeline: OpenPipeline,
  { size, steps }: Pick<ControlnetBenchOptions, 'size' | 'steps'>,
  controlnet: ControlnetPackage | null = null,
): Promise<number[]> {
  const opened = await pipeline.useControlnet(controlnet)
  const image = { pixels: new Uint8Array(3 * size * size).map((_, i) => (i * 7) % 256) }
  const request = { prompt: 'a red heart on a blue sky', negative_prompt: '', steps, seed: 1, count: 1 }
  const output = { output_format: 'jpeg', output_quality: 80, text_convention: 'diffusers' } as const
  const whole = {
    ...{ ...request, ...output, width: size, height: size, guidance_scale: 1 },
    ...(opened && { controls: [{ id: 'bench', scale: 1 }] }),
  }
  const options = opened ? { controlnet: { opened, image } } : {}
  const times: number[] = []
  let since = performance.now()
  for await (const event of txt2img(pipeline, whole, new AbortController().signal, options)) {
    if (event.type === 'step') times.push(performance.now() - since)
    since = performance.now()
  }
  return times
}

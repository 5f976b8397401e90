// Do the networks give the same on CUDA as on the CPU? The same weights, compiled for both, on the same inputs.
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { compile } from '../../../gpu-fn/compile/compile.ts'
import { chooseGraphs, planOf, providerOptions } from '../../../gpu-fn/engine/graphs.ts'
import { BudgetError } from '../../../gpu-fn/engine/memory-plan.ts'
import type { Manifest, Package } from '../../../gpu-fn/manifest.ts'
import { gaussianNoise } from '../../../gpu-fn/pipeline/noise.ts'
import { openSession, type SessionOptions } from '../../../gpu-fn/runtime/open-session.ts'
import type { Tensor } from '../../../gpu-fn/runtime/session.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { writeTinyCheckpoint } from '../../checkpoints/tiny/checkpoint.ts'
import type { TinyVariant } from '../../checkpoints/tiny/variants.ts'
import { type BuiltInModel, CHECKPOINTS } from '../../local/built-in-model.ts'
import { type RenderRequest, render, withPipeline } from '../../local/render.ts'
import { type Pixels, psnr, readPixels } from '../../receipts/compare-images.ts'

export type TargetsOptions = {
  /** `tiny-loud`: tiny-medium whose T5 reaches three million in its feed-forward layers, where float16 ends at 65,504. */
  readonly model: 'tiny-loud' | TinyVariant | BuiltInModel
  readonly tier: Manifest['tier']
  readonly target: 'cuda' | 'cuda-fp8'
  /** Compares the denoiser's streams before each block as well. */
  readonly layers?: boolean
}

const AXES: Record<string, number> = { B: 1, L: 96, h: 32, w: 24, S: 16 * 12, T: 4 }
const REQUEST = {
  prompt: 'a red heart on a blue sky',
  width: 256,
  height: 256,
  seed: 5,
} satisfies RenderRequest
const LOUD = 600
/** dB; two images of the same differ by 62 to 67 where onnxruntime normalizes the autoencoder's maps, which it does in no fixed order. */
const SAME = 55
/** Relative error ‖given − cpu‖ / ‖cpu‖ that is allowed, and the least PSNR in dB, with 16-bit and with FP8 products. */
const LIMITS = { weightOnly: { error: 2e-2, psnr: 35 }, native: { error: 5e-2, psnr: 30 } }

/**
 * Prints how far every output of every network, and an image, lie from the CPU's. Throws where that is too far: for random weights as for
 * nano's, but that only nano's images are judged.
 */
export async function benchTargets({ model, tier, target, layers = false }: TargetsOptions): Promise<void> {
  const scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-bench-'))
  const failures: string[] = []
  try {
    const checkpoint = isBuiltIn(model)
      ? CHECKPOINTS[model]
      : await writeTinyCheckpoint(
          path.join(scratch, 'checkpoint'),
          model === 'tiny-loud' ? { t5Gain: LOUD } : { variant: model },
        )
    const directories = { cpu: path.join(scratch, 'cpu'), [target]: path.join(scratch, target) }
    const common = { checkpoint: [checkpoint], tier, variant: isBuiltIn(model) ? model : 'custom', probes: layers }
    const { manifest } = await compile({ ...common, out: directories.cpu!, target: 'cpu' })
    const { manifest: there } = await compile({ ...common, out: directories[target]!, target })
    const { networks, kernels, note } = chooseGraphs(there)
    if (note) console.log(note)
    const judge = (what: string, figure: string, good: boolean) => {
      console.log(`${good ? ' ' : '✗'} ${model} ${tier} ${target} ${what}: ${figure}`)
      if (!good) failures.push(what)
    }
    const { without_kernels } = there
    const graphs = Object.entries(networks).map(([name, { file }]) => ({
      name,
      file,
      kernels,
    }))
    if (without_kernels && kernels)
      for (const name of ['transformer', 'vae_decoder'] as const)
        graphs.push({ name, file: without_kernels[name].file, kernels: undefined })
    const conditions: Partial<Record<'cpu' | 'there', Record<string, Tensor>>> = {}
    for (const { name, file, kernels } of graphs) {
      const noise = inputsOf(manifest.networks[name]!, manifest)
      // A step takes its own target's conditioning, whose gates are in the units of that target's streams.
      const inputs = (side: 'cpu' | 'there') => (name === 'transformer' ? { ...noise, ...conditions[side] } : noise)
      const own = path.join(directories.cpu!, `${name}.onnx`)
      const expected = await runOnce(own, { target: 'cpu' }, inputs('cpu'))
      const options = { target, kernels, provider: providerOptions(name) }
      const given = await runOnce(path.join(directories[target]!, file), options, inputs('there'))
      if (name === 'conditioning') {
        conditions.cpu = conditionOf(expected)
        conditions.there = conditionOf(given)
      }
      const limit = kernels && name === 'transformer' ? LIMITS.native : LIMITS.weightOnly
      for (const output of Object.keys(expected).filter((each) => each !== 'modulation')) {
        const error = relativeError(given[output]!, expected[output]!)
        judge(`${file} ${output}`, error.toExponential(1), error <= limit.error)
      }
    }
    const limit = kernels ? LIMITS.native : LIMITS.weightOnly
    const given = await pixels(directories[target]!)
    const decibels = psnr(given, await pixels(directories.cpu!))
    judge('image', `PSNR ${decibels.toFixed(1)} dB`, decibels >= limit.psnr || !isBuiltIn(model))
    console.log(
      `  the same image again: PSNR ${psnr(await pixels(directories[target]!), given).toFixed(1)} dB to the first`,
    )
    const moved = await likenessWithin(directories[target]!)
    judge(
      'images whose weights come and go',
      `PSNR ${moved.toFixed(1)} dB or more to those whose stay`,
      moved >= (kernels ? Number.POSITIVE_INFINITY : SAME),
    )
  } finally {
    await fs.rm(scratch, { recursive: true })
  }
  if (failures.length > 0) throw new Error(`too far from the CPU: ${failures.join(', ')}`)
}

/** The least PSNR of images within a budget in which most weights come and go to the same images without one. */
async function likenessWithin(directory: string): Promise<number> {
  const requests = [256, 256, 128, 128, 256].map((side) => ({ ...REQUEST, width: side, height: side }))
  const make = (budget: number | undefined) =>
    withPipeline(
      directory,
      async (pipeline) => {
        const images: Pixels[] = []
        for (const request of requests) images.push(await readPixels(await render(pipeline, request)))
        return images
      },
      { budget },
    )
  const [stayed, moved] = [await make(undefined), await make(tightBudget(await openPackage(directory)))]
  return Math.min(...moved.map((image, i) => psnr(image, stayed[i]!)))
}

/** A budget that lacks as many of the weights' bytes as one can do without. */
function tightBudget(pkg: Package): number {
  const weights = Object.values(pkg.manifest.files).reduce((sum, { bytes }) => sum + bytes, 0)
  const { peak } = planOf(pkg, undefined, REQUEST)
  for (const share of [0.8, 0.6, 0.4, 0.2]) {
    try {
      return planOf(pkg, peak - share * weights, REQUEST).budget!
    } catch (error) {
      if (!(error instanceof BudgetError)) throw error
    }
  }
  return peak - 1
}

const isBuiltIn = (model: TargetsOptions['model']): model is BuiltInModel => Object.hasOwn(CHECKPOINTS, model)

/** What the first step is told. */
function conditionOf({ modulation, context }: Record<string, Tensor>): Record<string, Tensor> {
  const [, batch, width] = modulation!.dims as [number, number, number]
  const data = (modulation!.data as Float32Array).slice(0, batch * width)
  return { modulation: { data, dims: [batch, width] }, context: context! }
}

/** Noise for every input, within what the position table covers. */
function inputsOf({ inputs }: NonNullable<Manifest['networks']['t5']>, { position }: Manifest): Record<string, Tensor> {
  if (AXES.h! / 2 > position.max) throw new Error(`${AXES.h} rows of latents are beyond the position table`)
  return Object.fromEntries(
    inputs.map(({ name, dtype, shape }) => {
      const dims = shape.map((dim) => (typeof dim === 'number' ? dim : AXES[dim]!))
      const size = dims.reduce((n, dim) => n * dim, 1)
      if (dtype === 'int64')
        return [name, { data: BigInt64Array.from({ length: size }, (_, i) => BigInt((i * 37) % 200)), dims }]
      const data = name === 'timesteps' ? Float32Array.of(1000, 857.7, 602.2, 8.93) : gaussianNoise(3, size)
      return [name, { data, dims }]
    }),
  )
}

async function runOnce(
  file: string,
  options: SessionOptions,
  inputs: Record<string, Tensor>,
): Promise<Record<string, Tensor>> {
  const session = await openSession(file, options)
  try {
    return await session.run(inputs)
  } finally {
    await session.release()
  }
}

const pixels = (directory: string): Promise<Pixels> =>
  withPipeline(directory, async (pipeline) => readPixels(await render(pipeline, REQUEST)))

function relativeError(given: Tensor, expected: Tensor): number {
  const [a, b] = [given.data as Float32Array, expected.data as Float32Array]
  let difference = 0
  let norm = 0
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2
    norm += b[i]! ** 2
  }
  return Math.sqrt(difference / norm)
}

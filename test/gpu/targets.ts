// Compares the networks on CUDA with those on the CPU, with the same weights and inputs.
import path from 'node:path'
import { compile } from '../../gpu-fn/compile/compile.ts'
import { chooseGraphs, chooseProviderOptions } from '../../gpu-fn/engine/package/graphs.ts'
import type { Manifest } from '../../gpu-fn/manifest.ts'
import { drawGaussianNoise } from '../../gpu-fn/pipeline/noise.ts'
import { openSession, type SessionOptions } from '../../gpu-fn/runtime/open-session.ts'
import type { Tensor } from '../../gpu-fn/runtime/session.ts'
import { openPackage } from '../../gpu-fn/weights/packages.ts'
import { computeRelativeError } from '../../infra/bench/statistics.ts'
import { writeTinyCheckpoint } from '../../infra/checkpoints/tiny/checkpoint.ts'
import type { TinyVariant } from '../../infra/checkpoints/tiny/variants.ts'
import { makeScratch } from '../../infra/command/scratch.ts'
import { type BuiltInModel, CHECKPOINTS } from '../../infra/local/models/built-in-model.ts'
import { type RenderRequest, render, withPipeline } from '../../infra/local/models/render.ts'
import { type Pixels, psnr, readPixels } from '../../infra/receipts/compare-images.ts'
import { findSmallestBudget } from './budget.ts'

export type TargetsOptions = {
  /** `tiny-loud`: tiny-medium with T5 activations of up to three million, beyond the float16 maximum of 65,504. */
  readonly model: 'tiny-loud' | TinyVariant | BuiltInModel
  readonly tier: Manifest['tier']
  readonly target: Exclude<Manifest['target'], 'cpu'>
  /** Also compares the denoiser's residual streams before each block. */
  readonly layers?: boolean
  /** 8-bit adaLN and 4-bit T5 weights. */
  readonly small?: boolean
}

const AXES: Record<string, number> = { B: 1, L: 96, h: 32, w: 24, H: 8 * 32, W: 8 * 24, S: 16 * 12, T: 4 }
const REQUEST = {
  prompt: 'a red heart on a blue sky',
  width: 256,
  height: 256,
  seed: 5,
} satisfies RenderRequest
const LOUD = 600
/**
 * PSNR in dB of repeated images: 62 to 67 if onnxruntime normalizes the autoencoder's feature maps, because its order of summation varies.
 */
const SAME = 55
/** Allowed relative error ‖given − cpu‖ / ‖cpu‖, and minimum PSNR in dB, with 16-bit and with FP8 products. */
const LIMITS = { weightOnly: { error: 2e-2, psnr: 35 }, native: { error: 5e-2, psnr: 30 } }

/**
 * Prints the error of every output of every network, and of an image, relative to the CPU. Throws if one is too large. Only images of nano
 * are judged, not those of random weights.
 */
export async function compareTargets(options: TargetsOptions): Promise<void> {
  const { model, tier, target } = options
  await using temporary = makeScratch('octet-targets-')
  const scratch = temporary.directory
  const failures: string[] = []
  const judge: Judge = (subject, figure, good) => {
    console.log(`${good ? ' ' : '✗'} ${model} ${tier} ${target} ${subject}: ${figure}`)
    if (!good) failures.push(subject)
  }
  const packages = await compileBoth(scratch, options)
  const { networks, kernels, note } = chooseGraphs(packages.gpu.manifest)
  if (note) console.log(note)
  const graphs: GraphFile[] = Object.entries(networks).map(([name, { file }]) => ({ name, file, kernels }))
  const { without_kernels } = packages.gpu.manifest
  if (without_kernels && kernels)
    for (const [name, { file }] of Object.entries(without_kernels)) graphs.push({ name, file, kernels: undefined })
  await compareNetworks(packages, graphs, target, judge)
  await compareImages(packages, Boolean(kernels), isBuiltIn(model), judge)
  if (failures.length > 0) throw new Error(`errors relative to the CPU are too large: ${failures.join(', ')}`)
}

type Judge = (subject: string, figure: string, good: boolean) => void
type Side = 'cpu' | 'gpu'
type Packages = Record<Side, { directory: string; manifest: Manifest }>
type GraphFile = { name: string; file: string; kernels: string | undefined }

/** Compiles the same weights for the CPU and for the target. */
async function compileBoth(
  scratch: string,
  { model, tier, target, layers = false, small = false }: TargetsOptions,
): Promise<Packages> {
  const tiny = model === 'tiny-loud' ? { t5Gain: LOUD } : { variant: model as TinyVariant }
  const checkpoint = isBuiltIn(model)
    ? CHECKPOINTS[model]
    : await writeTinyCheckpoint(path.join(scratch, 'checkpoint'), tiny)
  const bits = small ? ({ adalnBits: 8, t5Bits: 4 } as const) : {}
  const common = {
    checkpoint: [checkpoint],
    tier,
    variant: isBuiltIn(model) ? model : 'custom',
    probes: layers,
    ...bits,
  }
  const compileFor = async (side: Side, to: Manifest['target']) => {
    const directory = path.join(scratch, side)
    const { manifest } = await compile({ ...common, out: directory, target: to })
    return { directory, manifest }
  }
  return { cpu: await compileFor('cpu', 'cpu'), gpu: await compileFor('gpu', target) }
}

/** Compares every output of every graph on noise. */
async function compareNetworks(
  { cpu, gpu }: Packages,
  graphs: readonly GraphFile[],
  target: TargetsOptions['target'],
  judge: Judge,
): Promise<void> {
  const conditions: Partial<Record<Side, Record<string, Tensor>>> = {}
  for (const { name, file, kernels } of graphs) {
    const noise = inputsOf(cpu.manifest.networks[name]!, cpu.manifest)
    // A step takes the conditioning of its own target, because the scale of gates depends on the target.
    const selectInputs = (side: Side) => (name === 'transformer' ? { ...noise, ...conditions[side] } : noise)
    const expected = await runOnce(path.join(cpu.directory, `${name}.onnx`), { target: 'cpu' }, selectInputs('cpu'))
    const options = { target, kernels, provider: chooseProviderOptions(name) }
    const given = await runOnce(path.join(gpu.directory, file), options, selectInputs('gpu'))
    if (name === 'conditioning') {
      conditions.cpu = conditionOf(expected)
      conditions.gpu = conditionOf(given)
    }
    const limit = kernels && name === 'transformer' ? LIMITS.native : LIMITS.weightOnly
    for (const output of Object.keys(expected).filter((each) => each !== 'modulation')) {
      const error = computeRelativeError(valuesOf(given[output]!), valuesOf(expected[output]!))
      judge(`${file} ${output}`, error.toExponential(1), error <= limit.error)
    }
  }
}

/** Compares an image with that of the CPU, with its repetition, and with those of a memory budget. */
async function compareImages({ cpu, gpu }: Packages, native: boolean, trained: boolean, judge: Judge): Promise<void> {
  const limit = native ? LIMITS.native : LIMITS.weightOnly
  const given = await renderPixels(gpu.directory)
  const decibels = psnr(given, await renderPixels(cpu.directory))
  judge('image', `PSNR ${decibels.toFixed(1)} dB`, decibels >= limit.psnr || !trained)
  const repeated = psnr(await renderPixels(gpu.directory), given)
  console.log(`  the same image again: PSNR ${repeated.toFixed(1)} dB to the first`)
  const offloaded = await compareWithBudget(gpu.directory)
  const required = native ? Number.POSITIVE_INFINITY : SAME
  judge('images with offloaded weights', `PSNR ≥ ${offloaded.toFixed(1)} dB to those without`, offloaded >= required)
}

/** The minimum PSNR of images with a memory budget, which offloads most weights, relative to the same images without one. */
async function compareWithBudget(directory: string): Promise<number> {
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
  const [unlimited, offloaded] = [
    await make(undefined),
    await make(findSmallestBudget(await openPackage(directory), REQUEST)),
  ]
  return Math.min(...offloaded.map((image, i) => psnr(image, unlimited[i]!)))
}

const valuesOf = ({ data }: Tensor) => data as Float32Array
const isBuiltIn = (model: TargetsOptions['model']): model is BuiltInModel => Object.hasOwn(CHECKPOINTS, model)

/** The inputs of the first step. */
function conditionOf({ modulation, context }: Record<string, Tensor>): Record<string, Tensor> {
  const [, batch, width] = modulation!.dims as [number, number, number]
  const data = (modulation!.data as Float32Array).slice(0, batch * width)
  return { modulation: { data, dims: [batch, width] }, context: context! }
}

/** Noise for every input, of a size that the position table covers. */
function inputsOf({ inputs }: NonNullable<Manifest['networks']['t5']>, { position }: Manifest): Record<string, Tensor> {
  if (AXES.h! / 2 > position.max) throw new Error(`${AXES.h} rows of latents are beyond the position table`)
  return Object.fromEntries(
    inputs.map(({ name, dtype, shape }) => {
      const dims = shape.map((dim) => (typeof dim === 'number' ? dim : AXES[dim]!))
      const size = dims.reduce((n, dim) => n * dim, 1)
      if (dtype === 'int64')
        return [name, { data: BigInt64Array.from({ length: size }, (_, i) => BigInt((i * 37) % 200)), dims }]
      const data = name === 'timesteps' ? Float32Array.of(1000, 857.7, 602.2, 8.93) : drawGaussianNoise(3, size)
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

const renderPixels = (directory: string): Promise<Pixels> =>
  withPipeline(directory, async (pipeline) => readPixels(await render(pipeline, REQUEST)))

// Duration of one step of a full-size denoiser with random weights, in FP8 and in 16-bit products.
import { Graph } from '../../gpu-fn/compile/graph/graph.ts'
import { countElements } from '../../gpu-fn/dtype.ts'
import { drawGaussianNoise } from '../../gpu-fn/pipeline/noise.ts'
import { findKernels } from '../../gpu-fn/runtime/fp8-kernels.ts'
import { openSession, type SessionOptions } from '../../gpu-fn/runtime/open-session.ts'
import type { DeviceTensor, Session, Tensor } from '../../gpu-fn/runtime/session.ts'
import { depthOf } from '../checkpoints/published.ts'
import { makeScratch } from '../command/scratch.ts'
import { buildStep, writeGraph, writeNumbers } from './borrowed-weights.ts'
import { computeRelativeError, median } from './statistics.ts'

type StepSize = {
  readonly variant: 'large' | 'medium'
  readonly tier: 'fp8' | 'fp8-int4'
  readonly size: number
  readonly batch: number
  readonly blocks: number
}
export type StepOptions = Omit<StepSize, 'blocks'> & {
  readonly blocks?: number | undefined
  readonly runs: number
  /** Also times the step as a CUDA graph. */
  readonly graph?: boolean
}

const TEXT_TOKENS = 333
type Inputs = Record<string, Tensor | DeviceTensor>
export type TimedStep = { readonly milliseconds: number; readonly velocity: Float32Array }
export type OpenStep = {
  /** Step graph with FP8 products. */
  readonly graph: Graph
  /** Lengths of its symbolic axes. */
  readonly axes: Record<string, number>
  /** Median step time and the velocity. Throws if this machine does not support the kernels. */
  readonly timeFp8: (runs: number) => Promise<TimedStep>
  /** The same as a CUDA graph. Throws if the step cannot be captured. */
  readonly timeCaptured: (runs: number) => Promise<TimedStep>
  /** Median step time and the velocity with 16-bit products. */
  readonly timeHalf: (runs: number) => Promise<TimedStep>
}

/**
 * Prints milliseconds per step with FP8 and with 16-bit products, and the difference between their results. Throws without a GPU, and if a
 * CUDA graph has other results.
 */
export async function benchStep(options: StepOptions): Promise<void> {
  const { variant, tier, size, batch, blocks = depthOf(variant), runs, graph } = options
  requireKernels()
  await withStep({ variant, tier, size, batch, blocks }, async ({ timeFp8, timeCaptured, timeHalf }) => {
    const fp8 = await timeFp8(runs)
    const what = `${variant} in ${tier}, ${blocks} blocks, ${size}², batch ${batch}`
    console.log(`${what}: FP8 products ${fp8.milliseconds.toFixed(1)} ms, median of ${runs}`)
    if (graph) {
      const captured = await timeCaptured(runs)
      console.log(`${what}: FP8 products as a CUDA graph ${captured.milliseconds.toFixed(1)} ms, median of ${runs}`)
      if (!Buffer.from(captured.velocity.buffer).equals(Buffer.from(fp8.velocity.buffer)))
        throw new Error('the CUDA graph has another velocity than the ordinary step')
    }
    if (batch > 1) return
    const half = await timeHalf(runs)
    const error = computeRelativeError(fp8.velocity, half.velocity).toExponential(1)
    console.log(`${what}: 16-bit products ${half.milliseconds.toFixed(1)} ms; the two results differ by ${error}`)
  })
}

/** Path of the FP8 operator library. Throws if this machine does not support it. */
export function requireKernels(): string {
  const found = findKernels()
  if (!found.library) throw new Error(`the FP8 operators cannot run on this machine: ${found.reason}`)
  return found.library
}

/** Axis lengths of the step graph for a square image and the token count of most prompts. */
export const axesOf = (size: number, batch = 1) => ({
  ...{ B: batch, L: TEXT_TOKENS, h: size / 8, w: size / 8, S: (size / 16) ** 2 },
})

/** Writes step graphs with random weights to a temporary directory, copies the inputs to the device, and releases both after `use`. */
export async function withStep<Result>(
  { variant, tier, size, batch, blocks }: StepSize,
  use: (step: OpenStep) => Promise<Result>,
): Promise<Result> {
  await using scratch = makeScratch('octet-step-')
  const { directory } = scratch
  await writeNumbers(directory)
  const model = await buildStep(directory, variant, blocks, { tier, target: 'cuda-fp8' })
  const graph = model.graphs.get('transformer')!
  const axes = axesOf(size, batch)
  const inputs = await copyToDevice(directory, createNoise(graph, axes))
  const time = async (name: string, given: Graph, runs: number, options: Partial<SessionOptions> = {}) =>
    measureStep(await writeGraph(directory, name, given), inputs, runs, options)
  return await use({
    ...{ graph, axes },
    timeFp8: async (runs) => time('fp8.onnx', graph, runs, { kernels: requireKernels() }),
    timeCaptured: async (runs) => time('fp8.onnx', graph, runs, { kernels: requireKernels(), capture: true }),
    timeHalf: (runs) => time('half.onnx', model.withoutKernels!.transformer, runs),
  })
}

function createNoise({ inputs }: Graph, free: Record<string, number>): Record<string, Tensor> {
  return Object.fromEntries(
    inputs.map(({ name, shape }, seed) => {
      const dims = shape.map((dim) => (typeof dim === 'number' ? dim : free[dim]!))
      const data = drawGaussianNoise(seed, countElements(dims))
      return [name, { dims, data: name === 'modulation' ? data.map((value) => value * 0.2) : data }]
    }),
  )
}

/** Copies the inputs that are constant over all steps to the device, so that steps transfer only latents. */
async function copyToDevice(scratch: string, inputs: Record<string, Tensor>): Promise<Inputs> {
  const { latent, ...others } = inputs
  const graph = new Graph('keep')
  for (const [name, { dims }] of Object.entries(others))
    graph.output(`${name}_kept`, graph.input(name, 'float32', dims))
  const session = await openSession(await writeGraph(scratch, 'keep.onnx', graph), { target: 'cuda' })
  const kept = Object.entries(await session.runOnDevice(others))
  return { latent: latent!, ...Object.fromEntries(kept.map(([name, tensor]) => [name.replace('_kept', ''), tensor])) }
}

async function measureStep(
  file: string,
  inputs: Inputs,
  runs: number,
  options: Partial<SessionOptions>,
): Promise<TimedStep> {
  const session = await openSession(file, { target: 'cuda-fp8', ...options })
  try {
    // The first run of a size includes planning.
    let { velocity } = await session.run(inputs)
    if (options.capture) await requireCapture(session, inputs)
    const times: number[] = []
    for (let run = 0; run < runs; run++) {
      const start = performance.now()
      velocity = (await session.run(inputs)).velocity
      times.push(performance.now() - start)
    }
    return { milliseconds: median(times), velocity: velocity!.data as Float32Array }
  } finally {
    await session.release()
  }
}

/** Runs a session until its runs are captured. Throws if they cannot be. */
export async function requireCapture(session: Session, inputs: Inputs): Promise<void> {
  const start = performance.now()
  await session.run(inputs)
  const milliseconds = performance.now() - start
  const states = (await session.describeCaptures?.()) ?? []
  console.log(`${states.join('\n') || 'no captures'}; the run with the capture took ${milliseconds.toFixed(1)} ms`)
  if (!states[0]?.endsWith(': captured')) throw new Error('the step was not captured')
}

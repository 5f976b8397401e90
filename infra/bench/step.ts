// Duration of one step of a full-size denoiser with random weights, in FP8 and in 16-bit products.
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { Graph } from '../../gpu-fn/compile/graph/graph.ts'
import { countElements } from '../../gpu-fn/dtype.ts'
import { gaussianNoise } from '../../gpu-fn/pipeline/noise.ts'
import { findKernels } from '../../gpu-fn/runtime/fp8-kernels.ts'
import { openSession } from '../../gpu-fn/runtime/open-session.ts'
import type { DeviceTensor, Tensor } from '../../gpu-fn/runtime/session.ts'
import { depthOf } from '../checkpoints/published.ts'
import { buildStep, writeGraph, writeNumbers } from './borrowed-weights.ts'
import { median, relativeError } from './statistics.ts'

export type StepOptions = {
  readonly variant: 'large' | 'medium'
  readonly tier: 'fp8' | 'fp8-int4'
  readonly size: number
  readonly batch: number
  readonly blocks?: number | undefined
  readonly runs: number
}

const TEXT_TOKENS = 333
type Inputs = Record<string, Tensor | DeviceTensor>

/** Prints milliseconds per step with FP8 and with 16-bit products, and the difference between their results. Throws without a GPU. */
export async function benchStep(options: StepOptions): Promise<void> {
  const { variant, tier, size, batch, blocks = depthOf(variant), runs } = options
  const found = findKernels()
  if (!found.library) throw new Error(`a step in FP8 products cannot run on this machine: ${found.reason}`)
  const scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-step-'))
  try {
    await writeNumbers(scratch)
    const model = await buildStep(scratch, variant, blocks, { tier, target: 'cuda-fp8' })
    const native = model.graphs.get('transformer')!
    const free = { B: batch, L: TEXT_TOKENS, h: size / 8, w: size / 8, S: (size / 16) ** 2 }
    const inputs = await copyToDevice(scratch, noiseFor(native, free))
    const fp8 = await measureStep(await writeGraph(scratch, 'native.onnx', native), inputs, runs, found.library)
    const what = `${variant} in ${tier}, ${blocks} blocks, ${size}², batch ${batch}`
    console.log(`${what}: FP8 products ${fp8.milliseconds.toFixed(1)} ms, median of ${runs}`)
    if (batch > 1) return
    const wide = await measureStep(
      await writeGraph(scratch, 'without-kernels.onnx', model.withoutKernels!.transformer),
      inputs,
      runs,
    )
    const error = relativeError(fp8.velocity, wide.velocity).toExponential(1)
    console.log(`${what}: 16-bit products ${wide.milliseconds.toFixed(1)} ms; the two results differ by ${error}`)
  } finally {
    await fs.rm(scratch, { recursive: true })
  }
}

function noiseFor({ inputs }: Graph, free: Record<string, number>): Record<string, Tensor> {
  return Object.fromEntries(
    inputs.map(({ name, shape }, seed) => {
      const dims = shape.map((dim) => (typeof dim === 'number' ? dim : free[dim]!))
      const data = gaussianNoise(seed, countElements(dims))
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

async function measureStep(file: string, inputs: Inputs, runs: number, kernels?: string) {
  const session = await openSession(file, { target: 'cuda-fp8', kernels })
  try {
    // The first run of a size includes planning.
    let { velocity } = await session.run(inputs)
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

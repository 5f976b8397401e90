// Throughput of individual FP8 operators with the shapes of a step.
import { listGpus } from '../../../gpu-fn/engine/device.ts'
import { depthOf } from '../../checkpoints/published.ts'
import { makeScratch } from '../../command/scratch.ts'
import { buildStep } from '../borrowed-weights.ts'
import { axesOf } from '../step.ts'
import { type CountedCall, countCalls } from './calls.ts'
import { formatRatesTable, type TimedCall } from './table.ts'
import { requireTiming, timeCalls } from './timing.ts'
import { peaksOf } from './work.ts'

export type StepShape = { readonly variant: 'large' | 'medium'; readonly size: number }
export type KernelsOptions = StepShape & { readonly python: string }

/** Prints the throughput of each operator. Throws if a supported GPU, the kernels or PyTorch is missing. */
export async function benchKernels({ python, ...step }: KernelsOptions): Promise<void> {
  requireTiming(python)
  const calls = await timeEach(python, await callsOfStep(step))
  const gpu = (await listGpus())[0]?.name ?? ''
  console.log(`${step.variant}, ${step.size}², ${gpu}: operators timed individually, with buffers partly in cache\n`)
  console.log(formatRatesTable(calls, peaksOf(gpu)))
}

/** Operator calls of one step with batch size 1. */
export async function callsOfStep({ variant, size }: StepShape): Promise<CountedCall[]> {
  await using scratch = makeScratch('octet-calls-')
  const model = await buildStep(scratch.directory, variant, depthOf(variant), { tier: 'fp8', target: 'cuda-fp8' })
  return countCalls(model.graphs.get('transformer')!, axesOf(size))
}

/** Times calls; see `timeCalls`. */
export async function timeEach(python: string, calls: readonly CountedCall[], seconds?: number): Promise<TimedCall[]> {
  const times = await timeCalls(python, calls, seconds)
  return calls.map((call, k) => ({ call, time: times[k]! }))
}

// Share of each FP8 operator in the time of a step: its individual time multiplied by its call count in the step graph.
import { listGpus } from '../../../gpu-fn/engine/device.ts'
import { depthOf } from '../../checkpoints/published.ts'
import { withStep } from '../step.ts'
import { countCalls } from './calls.ts'
import { type StepShape, timeEach } from './kernels.ts'
import { profileTable } from './table.ts'
import { requireTiming } from './timing.ts'
import { peaksOf } from './work.ts'

export type ProfileOptions = StepShape & { readonly python: string; readonly runs: number }

/** Prints the table. Throws if a supported GPU, the kernels or PyTorch is missing. */
export async function benchProfile({ variant, size, python, runs }: ProfileOptions): Promise<void> {
  requireTiming(python)
  const { calls, others, milliseconds } = await withStep(
    { variant, tier: 'fp8', size, batch: 1, blocks: depthOf(variant) },
    async ({ graph, axes, timeFp8 }) => {
      const calls = countCalls(graph, axes)
      const others = graph.nodes.length - calls.reduce((sum, { count }) => sum + count, 0)
      return { calls, others, milliseconds: (await timeFp8(runs)).milliseconds }
    },
  )
  const timed = await timeEach(python, calls)
  const gpu = (await listGpus())[0]?.name ?? ''
  console.log(
    `${variant}, ${size}², batch 1, ${gpu}: step ${milliseconds.toFixed(1)} ms (median of ${runs}). Operators were timed individually, ` +
      `with buffers partly in cache. The rest includes ${others} onnxruntime nodes.\n`,
  )
  console.log(profileTable(timed, milliseconds, peaksOf(gpu)))
}

// The ceiling for the GPU time of a day (UTC), across all accounts and endpoints: the variable OCTET_GPU_BUDGET.
import * as z from 'zod'
import { gpuTimes } from './gpu.ts'
import { prewarm } from './prewarm.ts'
import { createTableSchema } from './values.ts'

const schema = z.strictObject({
  /** Seconds of GPU time, summed over all GPUs. */
  daily_seconds: z.number().positive().max(1e9).optional(),
  /** The same in dollars, at `dollars_per_hour` of OCTET_PREWARM. */
  daily_dollars: z.number().positive().max(1e7).optional(),
})
type BudgetFields = z.infer<typeof schema>

/** `runMs` is the time that an attempt reserves, the longest one that it may run. */
export type GpuBudget = { dailyMs: number; runMs: number }

/** The ceiling in seconds, or the problem of a field. Both fields: the lower ceiling applies. */
function ceilingOf({ daily_seconds, daily_dollars }: BudgetFields, rate: number): number | { problem: string } {
  if (daily_dollars !== undefined && rate === 0)
    return { problem: 'it requires dollars_per_hour above 0 in OCTET_PREWARM' }
  const bought = daily_dollars === undefined ? Number.POSITIVE_INFINITY : (daily_dollars / rate) * 3600
  return Math.min(daily_seconds ?? Number.POSITIVE_INFINITY, bought)
}

/** Null if there is no ceiling. Other sections report malformed values of the other variables. */
export const gpuBudget = z
  .object({
    OCTET_GPU_BUDGET: createTableSchema(schema.prefault({})),
    GPU_RUN_SECONDS: gpuTimes.in.shape.GPU_RUN_SECONDS.catch(0),
    OCTET_PREWARM: prewarm.in.shape.OCTET_PREWARM.catch(prewarm.parse({}) as never),
  })
  .transform(({ OCTET_GPU_BUDGET: given, GPU_RUN_SECONDS: runMs, OCTET_PREWARM }, context): GpuBudget | null => {
    const ceiling = ceilingOf(given, OCTET_PREWARM.dollars_per_hour)
    if (ceiling === Number.POSITIVE_INFINITY) return null
    const field = given.daily_dollars === undefined ? 'daily_seconds' : 'daily_dollars'
    const refuse = (message: string) => {
      context.addIssue({ code: 'custom', path: ['OCTET_GPU_BUDGET', field], message, input: given[field] })
      return z.NEVER
    }
    if (typeof ceiling !== 'number') return refuse(ceiling.problem)
    if (ceiling * 1000 < runMs)
      return refuse(
        `it allows ${Math.floor(ceiling)} s of GPU time, but each attempt reserves ${runMs / 1000} s (GPU_RUN_SECONDS)`,
      )
    return { dailyMs: ceiling * 1000, runMs }
  })

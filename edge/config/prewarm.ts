// The time that a GPU stays warm, the schedule of its starts ahead of demand, and the daily budget for both: OCTET_PREWARM.
import * as z from 'zod'
import { createTableSchema } from './values.ts'

const clock = z
  .string()
  .regex(/^([01]\d|2[0-4]):[0-5]\d$/, 'it must be a time of day in UTC such as 08:00')
  .transform((text) => Number(text.slice(0, 2)) * 60 + Number(text.slice(3)))

const span = z.strictObject({
  /** Minutes of the day. */
  from: clock,
  to: clock,
  /** 1 is Monday, 7 Sunday. */
  days: z.array(z.int().min(1).max(7)).default([1, 2, 3, 4, 5, 6, 7]),
})

const schema = z.strictObject({
  /** The idle time after which the host stops a container: gpu.scaledown_window_seconds of infra/config.json. */
  idle_seconds: z.number().positive().max(3600).default(120),
  /** The estimated duration of a cold start until one has been measured. */
  start_seconds: z.number().positive().max(3600).default(60),
  /** Seconds of GPU time per day for prewarming. At 0, only jobs start a GPU. */
  budget_seconds: z.number().min(0).max(86_400).default(0),
  /** The times at which the GPU is kept warm, within the budget. */
  schedule: z.array(span).default([]),
  /**
   * Keeps an idle GPU for a time derived from the gaps between recent jobs, within the budget. `wait_worth` is the cost of a caller's wait
   * for a start, as a multiple of the cost of the start; null keeps the GPU for `idle_seconds` only. Negative values
   * discount a start: during a burst, a warm GPU would be billed for most of the same time.
   */
  wait_worth: z.number().min(-1).max(1000).nullable().default(null),
  /** The price of a container in dollars per hour, for estimates of the cost. */
  dollars_per_hour: z.number().min(0).default(0),
})
export type PrewarmPolicy = z.infer<typeof schema>

export const prewarm = z
  .object({ OCTET_PREWARM: createTableSchema(schema.prefault({})) })
  .transform(({ OCTET_PREWARM }) => OCTET_PREWARM)

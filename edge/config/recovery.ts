// Delays before recovery from evictions, deploys and lost messages: the variable OCTET_RECOVERY.
import * as z from 'zod'
import { createTableSchema } from './values.ts'

const seconds = z
  .number()
  .positive()
  .max(30 * 86_400)
const schema = z.strictObject({
  /** An attempt interrupted by a reset of its object. */
  job_seconds: seconds.default(10),
  /** A reservation without a job, because the worker died between the two steps. */
  reservation_seconds: seconds.default(15 * 60),
  /** A settled job without a confirmed export. Must be within the 24 hours for which Stripe deduplicates events. */
  usage_seconds: seconds.default(12 * 3600),
})

export const recovery = z
  .object({ OCTET_RECOVERY: createTableSchema(schema.prefault({})) })
  .transform(({ OCTET_RECOVERY: given }) => ({
    jobMs: given.job_seconds * 1000,
    reservationMs: given.reservation_seconds * 1000,
    usageMs: given.usage_seconds * 1000,
  }))
export type Recovery = z.infer<typeof recovery>

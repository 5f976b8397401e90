// Delays before recovery from evictions, deploys and lost messages: the variable OCTET_RECOVERY.
import * as z from 'zod'
import { log } from './log.ts'

const seconds = z
  .number()
  .positive()
  .max(30 * 86_400)
const table = z
  .strictObject({
    /** An attempt interrupted by a reset of its object. */
    job_seconds: seconds.default(10),
    /** A reservation without a job, because the worker died between the two steps. */
    reservation_seconds: seconds.default(15 * 60),
    /** A settled job without a confirmed export. Must be within the 24 hours for which Stripe deduplicates events. */
    usage_seconds: seconds.default(12 * 3600),
  })
  .transform((given) => ({
    jobMs: given.job_seconds * 1000,
    reservationMs: given.reservation_seconds * 1000,
    usageMs: given.usage_seconds * 1000,
  }))
export type Recovery = z.infer<typeof table>

function parse(given: unknown) {
  try {
    return table.safeParse((typeof given === 'string' ? JSON.parse(given) : given) ?? {})
  } catch (error) {
    return { success: false, error: error as SyntaxError } as const
  }
}

/**
 * Reads OCTET_RECOVERY, as JSON text or as a table of wrangler.toml, with defaults for missing fields. A malformed value is logged and the
 * defaults apply, because the platform drops an alarm that throws repeatedly.
 */
export function readRecovery({ OCTET_RECOVERY: given }: Pick<Env, 'OCTET_RECOVERY'>): Recovery {
  const parsed = parse(given)
  if (parsed.success) return parsed.data
  log('error', 'OCTET_RECOVERY is malformed; its defaults hold', { given, cause: parsed.error })
  return table.parse({})
}

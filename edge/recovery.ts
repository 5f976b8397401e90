// How soon what was left behind (an eviction, a deploy, a lost message) is taken up again: the variable OCTET_RECOVERY.
import * as z from 'zod'
import type { Env } from './env.ts'
import { log } from './log.ts'

const seconds = z
  .number()
  .positive()
  .max(30 * 86_400)
const table = z
  .strictObject({
    /** An attempt whose object was reset. */
    job_seconds: seconds.default(10),
    /** A reservation without a job behind it: its worker died between the two. */
    reservation_seconds: seconds.default(15 * 60),
    /** A settled job that the export does not confirm: well within the day for which Stripe counts a repeat once. */
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
 * Reads OCTET_RECOVERY, as JSON text or as a table of wrangler.toml; what it leaves out has the default. One that is malformed is told to
 * the log, and the defaults hold: alarms that threw would not come again, and what they watch over would be lost.
 */
export function readRecovery({ OCTET_RECOVERY: given }: Pick<Env, 'OCTET_RECOVERY'>): Recovery {
  const parsed = parse(given)
  if (parsed.success) return parsed.data
  log('error', 'OCTET_RECOVERY is malformed; its defaults hold', { given, cause: parsed.error })
  return table.parse({})
}

// Retention periods, and the storage prefixes that implement them. The table is in docs/runbook.md.

import { DAY_MS } from '../platform/units.ts'

/** The retention periods for images, in days. R2 lifecycle rules match by key prefix, so there is one prefix and one rule per period. */
export const RETENTION_DAYS = [1, 7, 30, 90, 365] as const
export const DEFAULT_RETENTION_DAYS = 30
export type RetentionDays = (typeof RETENTION_DAYS)[number]

/** Returns the R2 prefix of an account's images. infra/results-lifecycle.json has a rule for each retention period. */
export const resultPrefixOf = (days: RetentionDays, account: string) => `results/${days}d/${account}/`

/** The R2 prefix of an account's input files. infra/results-lifecycle.json deletes them after a day, if a job's end did not. */
export const inputPrefixOf = (account: string) => `inputs/${account}/`

/** Days for which a job is kept after its images expire. */
export const RECORD_DAYS = 7
/** Days for which an account keeps usage by key; GET /v1/usage covers up to a year. Older usage is kept by tier only. */
export const USAGE_KEY_DAYS = 400
/** Days for which D1 keeps each settled job: one year plus the month for billing and disputes. Older usage is kept as daily sums. */
export const USAGE_DAYS = 400
/** Days for which D1 keeps the measurements of finished jobs. Forecasts use the last week. */
export const OBSERVATION_DAYS = 30
/** The storage limit for admission, below the 10 GB of a Durable Object, so that admitted jobs can still be settled. */
export const FULL_BYTES = 9.5e9

type EndedJob = { finished: number | null; created: number; retentionDays: RetentionDays }

/** Returns the deletion time of a finished job in Unix milliseconds: a week after its images expire or would have expired. */
export function computeRetentionEnd({ finished, created, retentionDays }: EndedJob): number {
  return (finished ?? created) + (retentionDays + RECORD_DAYS) * DAY_MS
}

// How long everything is kept, and where images are stored for that. docs/runbook.md has the table.

/** Days for which an account's images may be kept. R2's lifecycle has one rule for each, because a rule goes by the key's beginning. */
export const RETENTION_DAYS = [1, 7, 30, 90, 365] as const
export const DEFAULT_RETENTION_DAYS = 30
export type RetentionDays = (typeof RETENTION_DAYS)[number]

/** The prefix of the images of an account's jobs in R2. infra/results-lifecycle.json has a rule for each number of days. */
export const resultPrefix = (days: RetentionDays, account: string) => `results/${days}d/${account}/`

const DAY_MS = 24 * 3600_000
/** Days that a job outlives its images. */
export const RECORD_DAYS = 7
/** Days for which an account keeps usage by key; GET /v1/usage shows a year. Before that it is kept by tier alone, under no key. */
export const USAGE_KEY_DAYS = 400
/** Days for which D1 keeps each settled job: a year and the month in which it is billed and disputed. Before that there are daily sums. */
export const USAGE_DAYS = 400
/** Days for which D1 keeps what finished jobs took; forecasts read a week. */
export const OBSERVATION_DAYS = 30
/** An object stores 10 GB. Beyond this an account admits no job, so that those of before can still be settled. */
export const FULL_BYTES = 9.5e9

type Ended = { finished: number | null; created: number; retentionDays: RetentionDays }

/** When a final job is deleted, in Unix milliseconds: a week after its images expire, or would have expired. */
export function retentionEnd({ finished, created, retentionDays }: Ended): number {
  return (finished ?? created) + (retentionDays + RECORD_DAYS) * DAY_MS
}

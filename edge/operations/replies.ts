// The replies of the operator's routes, shared with the tools in infra/.
import type { BudgetReport, EndpointReport } from '../gpu/readiness.ts'
import type { JobRecord, LoggedEvent } from '../jobs/record.ts'
import type { StoredImage } from '../results/stored-image.ts'
import type { LedgerEntry } from '../usage/record.ts'
import type { DeliveryView } from '../webhooks/delivery/delivery.ts'

/** GET /v1/operator/status. `since` is midnight (UTC) in Unix seconds; `today` has sums since then. */
export type OperatorStatus = {
  object: 'status'
  since: number
  endpoints: (EndpointReport & { name: string; url: string | undefined })[]
  today: {
    jobs: number
    captured: number
    microdollars: number
    images: number
    cold_starts: number
    gpu_seconds: number
    warming_seconds: number
    gpu_dollars: number
  }
  /** The day's GPU time; null if there is no ceiling. */
  gpu_budget: BudgetReport | null
}

/** A log entry, with the fields of its event. `at` is Unix milliseconds. */
export type ReportedEntry = {
  seq: number
  attempt: number
  at: number
  type: LoggedEvent['type']
  [field: string]: unknown
}

/**
 * GET /v1/operator/jobs/{id}. Amounts are micro-dollars, times Unix milliseconds. `job` is null if the reservation has no job; the lists are
 * then missing.
 */
export type JobReport = {
  id: string
  account: string
  job:
    | (Omit<JobRecord, 'request' | 'warnings' | 'origin' | 'fingerprint' | 'images'> & {
        asked: Record<string, unknown>
      })
    | null
  ledger: LedgerEntry | null
  /** Each series of steps is one entry, whose `last` is the last step. */
  events?: (ReportedEntry & { last?: ReportedEntry })[]
  images?: (Omit<StoredImage, 'receipt'> & { receipt: boolean; in_store: boolean })[]
  webhooks?: (DeliveryView & { endpoint: string })[]
}

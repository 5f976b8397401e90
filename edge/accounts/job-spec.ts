// A job as its account admits and lists it.
import type { Parameters, PublicJob, WebhookEventKind } from '../dialects/definition/public-job.ts'
import type { RetentionDays } from '../results/retention.ts'
import type { StoredImage } from '../results/stored-image.ts'
import type { Decision, Warning } from '../routing/decision.ts'

/** The result of the content policy. Null: not checked. `unavailable`: the moderation failed, and the policy allows that. */
export type ContentVerdict = { block_list: 'passed' | null; moderation: 'passed' | 'unavailable' | null }

/** The specification of a job, fixed at admission and covered by its price. */
export type JobSpec = {
  id: string
  account: string
  keyId: string
  /** The id of the browser token that created the job; null for an API key. */
  token: string | null
  /** Unix milliseconds. */
  created: number
  request: Parameters
  decision: Decision
  /** Warnings about adjustments of the request. */
  adjustments?: readonly Warning[]
  /** Micro-dollars. `price` equals the amount of the job's ledger row; `basePrice` is the part that does not depend on steps. */
  price: number
  basePrice: number
  /** The name in `PUT /v1/jobs/{name}`; null if there is none. */
  name: string | null
  /** SHA-256 of the request body's fields. Two requests under one name must agree on it. */
  fingerprint: string
  /** SHA-256 of everything that determines the pixels, and the account's settings for files. Jobs with equal digests have equal images. */
  digest: string
  /** The worker's address in the caller's request; links in webhooks start with it. */
  origin: string
  /** The request's own webhook address. */
  webhook: string | null
  /** The kinds of events to send to `webhook`; absent: only the job's end. */
  webhookEvents?: readonly WebhookEventKind[]
  /** The dialect of the request; null for the native API. */
  dialect: string | null
  /** Retention of the images, set by the account at admission. */
  retentionDays: RetentionDays
  /** The end of the request's max_latency_ms in Unix milliseconds; absent without one. */
  deadline?: number
  /** Absent without a content policy. */
  content?: ContentVerdict
}

/** A final job as the ledger stores it for lists. Times are Unix milliseconds, `price` is the charge in micro-dollars. */
export type JobSummary = Omit<PublicJob, 'object' | 'images' | 'cancel_requested' | 'price_microdollars'> & {
  images: Omit<StoredImage, 'receipt'>[]
  cancelRequested: boolean
  price: number
}

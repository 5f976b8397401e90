// A job as its account admits and lists it.
import type { JobRequest, Route, Tier, Timings } from '#contract'
import type { ErrorCode } from '../http/errors.ts'
import type { StoredImage } from '../results/results.ts'
import type { RetentionDays } from '../results/retention.ts'
import type { Decision } from '../routing/decision.ts'

export type JobState = 'queued' | 'starting' | 'running' | 'succeeded' | 'failed' | 'canceled'

/** The specification of a job: what its price pays for. */
export type JobSpec = {
  id: string
  account: string
  keyId: string
  /** The id of the browser token that created the job; null for an API key. */
  token: string | null
  /** Unix milliseconds. */
  created: number
  request: Omit<JobRequest, 'protocol' | 'attempt'>
  decision: Decision
  /** Micro-dollars. `price` equals the amount of the job's ledger row; `basePrice` is the part that does not depend on steps. */
  price: number
  basePrice: number
  /** The name in `PUT /v1/jobs/{name}`; null without one. */
  name: string | null
  /** SHA-256 of the request body's fields. Two requests under one name must agree on it. */
  fingerprint: string
  /** SHA-256 of everything that determines the pixels. Jobs with equal digests have equal images. */
  digest: string
  /** The worker's address as the caller sees it; links in webhooks start with it. */
  origin: string
  /** The request's own webhook address. */
  webhook: string | null
  /** How long images are kept. The account sets it at admission. */
  retentionDays: RetentionDays
}

/** A final job as the ledger stores it for lists. Times are Unix milliseconds, `price` is the charge in micro-dollars. */
export type JobSummary = {
  id: string
  name: string | null
  state: JobState
  created: number
  finished: number | null
  attempt: number
  cancelRequested: boolean
  error: { code: ErrorCode; message: string } | null
  timings: Timings | null
  route: Route
  tier: Tier
  model: string
  steps: number
  guidance_scale: number
  reason: string
  size: string
  images: Omit<StoredImage, 'receipt'>[]
  warnings: { code: string; message: string }[]
  price: number
}

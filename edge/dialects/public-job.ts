// The public representation of a job, from which views, lists, webhooks, the replies of dialects and the log line are derived.
import type { Route, Tier, Timings } from '#contract'
import type { ErrorCode } from '../http/errors.ts'
import type { StoredImage } from '../results/results.ts'

export type JobState = 'queued' | 'starting' | 'running' | 'succeeded' | 'failed' | 'canceled'

/** Times are Unix seconds. `images` is empty until the job has succeeded, and in order afterward. `key` and `receipt` are not for lists. */
export type PublicJob = {
  id: string
  object: 'job'
  name: string | null
  state: JobState
  created: number
  finished: number | null
  attempt: number
  cancel_requested: boolean
  route: Route
  tier: Tier
  model: string
  steps: number
  guidance_scale: number
  reason: string
  size: string
  images: StoredImage[]
  warnings: { code: string; message: string }[]
  timings: Timings | null
  error: { code: ErrorCode; message: string } | null
  price_microdollars: number
}

/** An image's file in a reply: a link (null once it has expired), or its bytes. */
export type ImageFile = { url: string | null } | { b64_json: string }

/** The event of a finished job as its webhooks receive it. `timestamp` is ISO 8601. */
export type JobEvent = { type: string; timestamp: string; data: { id: string; images?: object[] } }

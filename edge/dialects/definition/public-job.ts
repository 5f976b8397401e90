// The public representation of a job, from which views, lists, webhooks, the replies of dialects and the log line are derived.
import type { JobRequest, Route, Tier, Timings } from '#contract'
import type { GpuState } from '../../gpu/readiness.ts'
import type { ErrorCode } from '../../http/error-codes.ts'
import type { StoredImage } from '../../results/stored-image.ts'

export type JobState = 'queued' | 'starting' | 'running' | 'succeeded' | 'failed' | 'canceled'

/** Times are Unix seconds. `images` is empty until the job has succeeded, and in order afterward. */
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

/** The last report of the current attempt: its position in the queue, or its step. */
export type Progress = { position: number } | { image: number; step: number; steps: number } | null

/** The job resource of the API. `gpu` is the state of the GPU for which the job waits. A link is null once its image has expired. */
export type JobView = Omit<PublicJob, 'images'> & {
  progress: Progress
  gpu: GpuState | null
  /** A signed link to the event stream, for an EventSource, which cannot send a key. */
  events_url: string
  images: (Omit<StoredImage, 'key'> & { url: string | null })[]
}

/** An entry of a list of jobs. A job in progress has the state `in_progress`, and only the fields of its request. */
export type ListedJob = Partial<Omit<PublicJob, 'images' | 'state'>> &
  Pick<PublicJob, 'id' | 'name' | 'created' | 'finished' | 'model' | 'size'> & {
    state: JobState | 'in_progress'
    images: JobView['images']
  }

/** The parameters of a job as its GPU function receives them. */
export type Parameters = Omit<JobRequest, 'protocol' | 'attempt'>

/** An image's file in a reply: a link (null once it has expired), its bytes, or both. */
export type ImageFile = { url: string | null } | { b64_json: string; url?: string | null }

/** The event of a finished job as its webhooks receive it. `timestamp` is ISO 8601. */
export type JobEvent = { type: string; timestamp: string; data: { id: string; images?: object[] } }

/** The events of a job for its request's own webhook address: its start, its images, its steps, its end. */
export type WebhookEventKind = 'start' | 'output' | 'logs' | 'completed'

// What is known about a job, and how an event changes it. Pure: JobDO keeps the record and does the work.
import type { JobEvent, JobRequest, Timings } from '#contract'
import type { ErrorCode } from './errors.ts'
import type { Decision } from './route.ts'

/** After this many attempts without an end a job has failed. */
export const MAX_ATTEMPTS = 3
export const JOB_ID = /^job_[0-9a-f]{32}$/
export const newJobId = () => `job_${crypto.getRandomValues(new Uint8Array(16)).toHex()}`

export type JobSpec = {
  id: string
  account: string
  keyId: string
  /** Unix milliseconds. */
  created: number
  request: Omit<JobRequest, 'protocol' | 'attempt'>
  decision: Decision
  /** Micro-dollars, reserved in the account's ledger under the job's id. */
  price: number
}

export type StoredImage = {
  image: number
  seed: number
  width: number
  height: number
  content_type: string
  bytes: number
  sha256: string
  /** Key in R2. */
  key: string
}

export type JobState = 'queued' | 'starting' | 'running' | 'succeeded' | 'failed' | 'canceled'
/** An event as the job logs it: an image is told by where it was stored, not by its bytes. */
export type LoggedEvent =
  | Exclude<JobEvent, { type: 'image' | 'heartbeat' }>
  | { type: 'stored'; image: StoredImage }
  | Lost
type Lost = { type: 'lost'; reason: string }

export type JobRecord = JobSpec & {
  state: JobState
  /** The current attempt; 0 before the first. Events of any other are ignored. */
  attempt: number
  progress: { position: number } | { image: number; step: number; steps: number } | null
  images: StoredImage[]
  warnings: { code: string; message: string }[]
  timings: Timings | null
  ran: { package: string; device: string } | null
  error: { code: ErrorCode; message: string } | null
  finished: number | null
  /** Whether the account has captured or released the price. */
  settled: boolean
}

const FINAL: ReadonlySet<JobState> = new Set(['succeeded', 'failed', 'canceled'])
/** What a caller reads where the fault was ours. */
export const FAILED = 'The image could not be made. Nothing was charged; please try again.'
export const isFinal = (job: Pick<JobRecord, 'state'>) => FINAL.has(job.state)

const FRESH = {
  progress: null,
  images: [],
  warnings: [],
  timings: null,
  ran: null,
  error: null,
  finished: null,
} as const

export function newJob(spec: JobSpec): JobRecord {
  return { ...spec, ...FRESH, images: [], warnings: [], state: 'queued', attempt: 0, settled: false }
}

/** The record at the start of an attempt: what an earlier one reported no longer counts. */
export function beginAttempt(job: JobRecord, attempt: number): JobRecord {
  return { ...job, ...FRESH, images: [], warnings: [], state: 'starting', attempt }
}

/** Ends a job without success. */
export function failJob(job: JobRecord, code: ErrorCode, message: string): JobRecord {
  return isFinal(job)
    ? job
    : { ...job, state: 'failed', error: { code, message }, progress: null, finished: Date.now() }
}

/** The decision as callers read it; the endpoint is ours alone. */
export function decisionOf({ decision: { route, tier, model, steps, guidanceScale, reason } }: JobRecord) {
  return { route, tier, model, steps, guidance_scale: guidanceScale, reason }
}

/** What the caller should know beside the images. */
export function warningsOf({ request, warnings }: JobRecord): JobRecord['warnings'] {
  if (!request.negative_prompt || request.guidance_scale > 1) return warnings
  const message = `negative_prompt had no effect: it works through guidance, and this job ran at guidance_scale ${request.guidance_scale}.`
  return [{ code: 'negative_prompt_ignored', message }, ...warnings]
}

/**
 * The record after the GPU function failed an attempt. An invalid request is the caller's to mend: it is final and told. The rest is
 * ours and stays in the log; the GPU function runs the job again for a later attempt, as long as there is one.
 */
function attemptFailed(job: JobRecord, { code, message }: Extract<JobEvent, { type: 'failed' }>): JobRecord {
  if (code === 'invalid_request') return failJob(job, 'invalid_request', message)
  return job.attempt < MAX_ATTEMPTS ? queuedAgain(job) : failJob(job, 'generation_failed', FAILED)
}

const queuedAgain = (job: JobRecord): JobRecord => ({ ...job, state: 'queued', progress: null })

/** Applies an event to a record. A final state never changes. */
export function applyEvent(job: JobRecord, event: LoggedEvent): JobRecord {
  if (isFinal(job)) return job
  switch (event.type) {
    case 'accepted':
      return { ...job, progress: { position: event.position } }
    case 'started':
      return { ...job, state: 'running', ran: { package: event.package, device: event.device } }
    case 'warning':
      return { ...job, warnings: [...job.warnings, { code: event.code, message: event.message }] }
    case 'step':
      return { ...job, progress: { image: event.image, step: event.step, steps: event.steps } }
    case 'stored':
      return { ...job, images: [...job.images.filter(({ image }) => image !== event.image.image), event.image] }
    case 'succeeded':
      return { ...job, state: 'succeeded', timings: event.timings, progress: null, finished: Date.now() }
    case 'failed':
      return attemptFailed(job, event)
    case 'canceled':
      return { ...job, state: 'canceled', timings: event.timings, progress: null, finished: Date.now() }
    case 'lost':
      return queuedAgain(job)
  }
}

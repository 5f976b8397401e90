// What is known about a job, and how an event changes it. Pure: JobDO keeps the record and does the work.
import type { JobEvent, JobRequest, Timings } from '#contract'
import type { ErrorCode } from './errors.ts'
import { sha256 } from './keys.ts'
import type { Decision } from './route.ts'

/** After this many attempts without an end a job has failed. */
export const MAX_ATTEMPTS = 3
/** What a caller reads where the fault was ours. */
export const FAILED = 'The image could not be made. Nothing was charged; please try again.'
export const JOB_ID = /^job_[0-9a-f]{32}$/
export const newJobId = () => `job_${crypto.getRandomValues(new Uint8Array(16)).toHex()}`

/** The id behind a name that an account gave a job: the same for the same name, another for every account. */
export const namedJobId = async (account: string, name: string) =>
  `job_${(await sha256(`${account}/${name}`)).slice(0, 32)}`

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
  /** The id that the caller gave with `PUT /v1/jobs/{name}`; null where there is none. */
  name: string | null
  /** SHA-256 of what the caller asked, to tell a repeat from another request under the same name. */
  fingerprint: string
  /** Where the caller reached the worker; the links of a webhook begin with it. */
  origin: string
  /** The request's own webhook address. */
  webhook: string | null
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
  /** Unix seconds from which the image is no longer kept. */
  expires_at: number
  /** Its owner had it deleted. */
  deleted?: true
  /** Compact JWS, once the job has succeeded; see receipts.ts. */
  receipt?: string
}

export type JobState = 'queued' | 'starting' | 'running' | 'succeeded' | 'failed' | 'canceled'
export type Preview = { image: number; step: number; content_type: string; b64_json: string }
/** An event as the job logs it: bytes are told by where they were stored, and what the edge itself did is told as well. */
export type LoggedEvent =
  | Exclude<JobEvent, { type: 'image' | 'preview' | 'heartbeat' | 'succeeded' | 'canceled' }>
  | (Extract<JobEvent, { type: 'succeeded' }> & { stored: StoredImage[] })
  /** Without timings when the GPU function did not tell them. */
  | { type: 'canceled'; steps_done: number; timings: Timings | null }
  | { type: 'queued' }
  | { type: 'starting' }
  | { type: 'stored'; image: StoredImage }
  | ({ type: 'preview' } & Preview)
  /** The attempt ended and another follows. `reason`, here and below, is for the operator alone. */
  | { type: 'lost'; reason: string }
  | { type: 'given_up'; code: ErrorCode; message: string; reason?: string }
  | { type: 'cancel_requested' }

/** An attempt's wait for a GPU: when one was first asked (Unix milliseconds), how often none accepted, and how long to wait before the next try. */
export type Waiting = {
  since: number
  tries: number
  waitMs: number
  /** Endpoints that said nothing and were told to drop this attempt. */
  dropped?: string[]
}

export type JobRecord = JobSpec & {
  state: JobState
  /** The current attempt; 0 before the first. Events of any other are ignored. */
  attempt: number
  /** Null unless the current attempt was not accepted by a GPU yet. */
  waiting: Waiting | null
  progress: { position: number } | { image: number; step: number; steps: number } | null
  images: StoredImage[]
  warnings: { code: string; message: string }[]
  timings: Timings | null
  ran: { package: string; device: string } | null
  /** Which endpoint accepted the current attempt. */
  endpoint: string | null
  error: { code: ErrorCode; message: string } | null
  /** Unix milliseconds: when a GPU accepted the current attempt, and when the job ended. */
  accepted: number | null
  finished: number | null
  cancelRequested: boolean
  /** Steps that a canceled job had finished, over all of its images. */
  stepsDone: number
  /** Whether the account has captured or released the price. */
  settled: boolean
  /** Whether the webhooks were told. */
  announced: boolean
}

const FINAL: ReadonlySet<JobState> = new Set(['succeeded', 'failed', 'canceled'])
export const isFinal = (job: Pick<JobRecord, 'state'>) => FINAL.has(job.state)
/** A job of which nothing is left to do. */
export const isOver = (job: JobRecord) => isFinal(job) && job.settled && job.announced

const fresh = () => ({
  ...{ progress: null, images: [], warnings: [], timings: null, ran: null, endpoint: null, error: null },
  ...{ accepted: null, finished: null, stepsDone: 0 },
})

export function newJob(spec: JobSpec): JobRecord {
  const open = { cancelRequested: false, settled: false, announced: false }
  return { ...spec, ...fresh(), ...open, state: 'queued', attempt: 0, waiting: null }
}

/** The record at the start of an attempt: what an earlier one reported no longer counts. */
export function beginAttempt(job: JobRecord, attempt: number, now: number): JobRecord {
  return { ...job, ...fresh(), attempt, waiting: { since: now, tries: 0, waitMs: 0 } }
}

/** Steps that the current attempt has finished, as far as its events told. */
export function stepsSeen({ progress }: JobRecord): number {
  return progress && 'step' in progress ? progress.image * progress.steps + progress.step : 0
}

/** What a job costs as it stands, in micro-dollars: its price, of a job that was canceled on request the share of finished steps, else nothing. */
export function costOf({ state, price, cancelRequested, stepsDone, request }: JobRecord): number {
  if (state === 'succeeded') return price
  if (state !== 'canceled' || !cancelRequested) return 0
  return Math.floor((price * Math.min(stepsDone, request.steps * request.count)) / (request.steps * request.count))
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

/** Whether a failed attempt is followed by another: the fault was ours, the GPU function runs a later attempt anew, and the job is still wanted. */
export function isRetried(
  { attempt, cancelRequested }: JobRecord,
  { code }: Extract<JobEvent, { type: 'failed' }>,
): boolean {
  return code !== 'invalid_request' && attempt < MAX_ATTEMPTS && !cancelRequested
}

/** What the GPU function says to a caller: an invalid request is theirs to mend and is told; the rest is ours and stays in the log. */
function failure(event: Extract<JobEvent, { type: 'failed' }>): [ErrorCode, string] {
  if (event.code === 'invalid_request') return ['invalid_request', event.message]
  return ['generation_failed', FAILED]
}

const ended = (job: JobRecord, state: JobState, now: number): JobRecord => ({
  ...job,
  ...{ state, progress: null, waiting: null, finished: now },
})

/** Applies an event to a record. A final state never changes. */
export function applyEvent(job: JobRecord, event: LoggedEvent, now: number): JobRecord {
  if (isFinal(job)) return job
  switch (event.type) {
    case 'queued':
      return job
    case 'starting':
      return { ...job, state: 'starting' }
    case 'accepted': {
      const state = event.position > 0 ? 'queued' : 'starting'
      return { ...job, state, waiting: null, accepted: now, progress: { position: event.position } }
    }
    case 'started':
      return { ...job, state: 'running', ran: { package: event.package, device: event.device } }
    case 'warning':
      return { ...job, warnings: [...job.warnings, { code: event.code, message: event.message }] }
    case 'step':
      return { ...job, progress: { image: event.image, step: event.step, steps: event.steps } }
    case 'preview':
      return job
    case 'stored':
      return { ...job, images: [...job.images.filter(({ image }) => image !== event.image.image), event.image] }
    case 'cancel_requested':
      return { ...job, cancelRequested: true }
    case 'lost':
      return { ...job, state: 'queued', progress: null, waiting: null }
    case 'succeeded':
      return { ...ended(job, 'succeeded', now), timings: event.timings, images: event.stored }
    case 'failed': {
      const [code, message] = failure(event)
      return { ...ended(job, 'failed', now), error: { code, message } }
    }
    case 'given_up':
      return { ...ended(job, 'failed', now), error: { code: event.code, message: event.message } }
    case 'canceled':
      return { ...ended(job, 'canceled', now), timings: event.timings, stepsDone: event.steps_done }
  }
}

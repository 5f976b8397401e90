// The record of a job and how events change it. Pure: JobDO stores the record and does the work.

import { countRunSteps, hasGuidance, type JobEvent, type Timings } from '#contract'
import type { JobSpec } from '../accounts/job-spec.ts'
import type { JobState, Progress } from '../dialects/definition/public-job.ts'
import type { ErrorCode } from '../http/error-codes.ts'
import { DEFAULT_RETENTION_DAYS } from '../results/retention.ts'
import type { RunFacts, StoredImage } from '../results/stored-image.ts'

/** A job fails after this many attempts that ended with a fault. */
export const MAX_FAULTS = 3
/** Maximum number of attempts in total. Attempts that end with a reset of the job's object, as in a deploy, are not faults. */
export const MAX_ATTEMPTS = 25
/** The message to callers about an internal error. */
export const FAILED = 'The image could not be made. Nothing was charged; please try again.'

export type Preview = { image: number; step: number; content_type: string; b64_json: string }
/** The event of a log entry: an event of the GPU function, with stored files in place of bytes, or an event of the edge. */
export type LoggedEvent =
  | Exclude<JobEvent, { type: 'image' | 'preview' | 'heartbeat' | 'succeeded' | 'canceled' }>
  | (Extract<JobEvent, { type: 'succeeded' }> & { stored: StoredImage[] })
  /** Without timings when the GPU function reported none. */
  | { type: 'canceled'; steps_done: number; timings: Timings | null }
  | { type: 'queued' }
  | { type: 'starting' }
  | { type: 'stored'; image: StoredImage }
  | ({ type: 'preview' } & Preview)
  /** The attempt ended and another follows. `reason`, here and below, is for operators only. */
  | { type: 'lost'; reason: string }
  | { type: 'given_up'; code: ErrorCode; message: string; reason?: string }
  | { type: 'cancel_requested' }

/** An entry of a job's log. `at` is Unix milliseconds. */
export type LogEntry = { seq: number; attempt: number; at: number; event: LoggedEvent }

/** The wait for a GPU. */
export type WaitState = {
  /** Unix milliseconds of the first request to a GPU. */
  since: number
  /** Number of requests that no GPU has accepted. */
  tries: number
  /** Endpoints that did not answer in time and received a cancellation of this attempt. */
  dropped?: string[]
}

export type JobRecord = JobSpec & {
  state: JobState
  /** The current attempt; 0 before the first. Events of other attempts are ignored. */
  attempt: number
  /** Attempts that ended with a fault: of the GPU function, or of the connection to it. */
  faults: number
  /** Null unless the current attempt awaits acceptance by a GPU. */
  waiting: WaitState | null
  /** Whether the job has a slot at its endpoint for an attempt. */
  granted: boolean
  /** Unix milliseconds of the next action, unless an attempt is in progress. */
  nextAt: number
  progress: Progress
  images: StoredImage[]
  warnings: { code: string; message: string }[]
  timings: Timings | null
  ran: RunFacts | null
  /** The endpoint that accepted the current attempt. */
  endpoint: string | null
  /** The last attempt that an endpoint accepted; absent without one. Its run may continue after its stream was lost. */
  run?: { endpoint: string; attempt: number }
  error: { code: ErrorCode; message: string } | null
  /** Unix milliseconds: acceptance of the current attempt by a GPU, and the job's end. */
  accepted: number | null
  finished: number | null
  cancelRequested: boolean
  /** Steps that a canceled job completed, over all of its images. */
  stepsDone: number
  /** Whether the account has captured or released the price. */
  settled: boolean
  /** Whether the webhook event was published. */
  announced: boolean
}

/** Values of fields that records of earlier releases lack. */
export const RECORD_DEFAULTS = {
  ...{ token: null, dialect: null, basePrice: 0, digest: '', retentionDays: DEFAULT_RETENTION_DAYS },
  ...{ granted: true, faults: 0, nextAt: 0 },
} satisfies Partial<JobRecord>

const FINAL: ReadonlySet<JobState> = new Set(['succeeded', 'failed', 'canceled'])
export const isFinal = (job: Pick<JobRecord, 'state'>) => FINAL.has(job.state)
/** Whether a job needs no further work. */
export const isOver = (job: JobRecord) => isFinal(job) && job.settled && job.announced

const newAttemptFields = () => ({
  ...{ progress: null, images: [], warnings: [], timings: null, ran: null, endpoint: null, error: null },
  ...{ accepted: null, finished: null, stepsDone: 0 },
})

export function newJob(spec: JobSpec): JobRecord {
  const open = { granted: false, cancelRequested: false, settled: false, announced: false }
  return {
    ...spec,
    ...newAttemptFields(),
    ...open,
    state: 'queued',
    attempt: 0,
    faults: 0,
    waiting: null,
    nextAt: spec.created,
  }
}

/** The record at the start of an attempt, without reports of earlier ones. */
export function beginAttempt(job: JobRecord, attempt: number, now: number): JobRecord {
  return { ...job, ...newAttemptFields(), attempt, waiting: { since: now, tries: 0 } }
}

/** Completed steps of the current attempt, as reported so far. */
export function countSteps({ progress }: Pick<JobRecord, 'progress'>): number {
  return progress && 'step' in progress ? progress.image * progress.steps + progress.step : 0
}

/** The steps that a job runs, over all of its images. */
const countTotalSteps = ({ request: { steps, strength, count } }: Pick<JobRecord, 'request'>) =>
  countRunSteps(steps, strength) * count

/**
 * Minimum number of steps for the return of the slot before the last step. In shorter jobs, most of the GPU time would not count as usage.
 */
const MIN_STEPS = 4

/** Whether the last step of an attempt is in progress, so that the GPU is about to be free. */
export function isOnLastStep(job: Pick<JobRecord, 'state' | 'request' | 'progress'>): boolean {
  const steps = countTotalSteps(job)
  return job.state === 'running' && steps >= MIN_STEPS && countSteps(job) >= steps - 1
}

type ChargedJob = Pick<JobRecord, 'state' | 'price' | 'basePrice' | 'cancelRequested' | 'stepsDone' | 'request' | 'ran'>

/**
 * The charge for a job in its current state, in micro-dollars: the price of a succeeded job; the base price plus the price of the completed
 * steps for a job that its owner canceled after its start; otherwise 0.
 */
export function chargeOf({ state, price, basePrice, cancelRequested, stepsDone, request, ran }: ChargedJob): number {
  if (state === 'succeeded') return price
  if (state !== 'canceled' || !cancelRequested || !ran) return 0
  const steps = countTotalSteps({ request })
  return basePrice + Math.floor(((price - basePrice) * Math.min(stepsDone, steps)) / steps)
}

/** Whether the next request with the job's name or Idempotency-Key replaces the job: it failed, free of charge, and not because of the request. */
export const isRetryable = ({ state, error }: Pick<JobRecord, 'state' | 'error'>) =>
  state === 'failed' && error?.code !== 'invalid_request'

/** The public part of the decision, without the endpoint. */
export function decisionOf({
  decision: { route, tier, model, steps, guidanceScale, reason },
}: Pick<JobSpec, 'decision'>) {
  return { route, tier, model, steps, guidance_scale: guidanceScale, reason }
}

/** Warnings for the caller. */
export function warningsOf({
  request,
  adjustments = [],
  warnings,
}: Pick<JobRecord, 'adjustments' | 'request' | 'warnings'>): JobRecord['warnings'] {
  if (!request.negative_prompt || hasGuidance(request)) return [...adjustments, ...warnings]
  const message = `negative_prompt had no effect: it requires guidance, and this job ran at guidance_scale ${request.guidance_scale}.`
  return [...adjustments, { code: 'negative_prompt_ignored', message }, ...warnings]
}

/** Whether another attempt follows after the GPU function failed this one, or canceled it without a request. */
export function isRetried(
  { faults, cancelRequested }: JobRecord,
  event: Extract<JobEvent, { type: 'failed' | 'canceled' }>,
): boolean {
  const isFault = event.type === 'canceled' || event.code !== 'invalid_request'
  return isFault && faults + 1 < MAX_FAULTS && !cancelRequested
}

/** The caller's view of a failure: an invalid request is the caller's to fix; details of other faults stay in the log. */
function describeFailure(event: Extract<JobEvent, { type: 'failed' }>): [ErrorCode, string] {
  if (event.code === 'invalid_request') return ['invalid_request', event.message]
  return ['generation_failed', FAILED]
}

const endJob = (job: JobRecord, state: JobState, now: number): JobRecord => ({
  ...job,
  ...{ state, progress: null, waiting: null, finished: now },
})

const runFactsOf = (event: Extract<JobEvent, { type: 'started' }>): RunFacts => {
  const { package: digest, device, loras, controls } = event
  return { package: digest, device, ...(loras && { loras }), ...(controls && { controls }) }
}

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
      return { ...job, state: 'running', ran: runFactsOf(event) }
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
      return { ...job, state: 'queued', progress: null, waiting: null, faults: job.faults + 1 }
    case 'succeeded':
      return { ...endJob(job, 'succeeded', now), timings: event.timings, images: event.stored }
    case 'failed': {
      const [code, message] = describeFailure(event)
      return { ...endJob(job, 'failed', now), error: { code, message } }
    }
    case 'given_up':
      return { ...endJob(job, 'failed', now), error: { code: event.code, message: event.message } }
    case 'canceled':
      return { ...endJob(job, 'canceled', now), timings: event.timings, stepsDone: event.steps_done }
  }
}

// Creates the job of a request: one call to the account, then one to the job object. The caller may wait for the result.

import type { JobSpec } from '../accounts/job-spec.ts'
import type { Reservation } from '../accounts/ledger.ts'
import type { RateState } from '../accounts/rate-limit-headers.ts'
import type { Credential } from '../auth/keys.ts'
import { checkConfig } from '../config.ts'
import { isGpuBudgetExhausted } from '../gpu/budget.ts'
import type { ErrorCode } from '../http/error-codes.ts'
import { ApiError } from '../http/errors.ts'
import { isFinal, type JobRecord } from '../jobs/record.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { log } from '../platform/log.ts'
import { type InputFile, storeInputs } from '../results/inputs.ts'
import { areStored } from '../results/results.ts'
import { checkContent } from './content-policy.ts'
import { createAdmissionError, createNextDayHeaders } from './refusals.ts'

/**
 * A parsed request for a job. `retried`: possibly a client's retry of an earlier request. `joins`: without an Idempotency-Key, the request
 * joins an equal one of the last minute that is running.
 */
export type Submission = {
  /** The files of `spec.request.inputs`. */
  inputs: readonly InputFile[]
  credential: Credential
  spec: JobSpec
  idempotencyKey: string | null
  retried: boolean
  joins: boolean
  reuse: boolean
  /** Whether the request already counts toward the rate limits. */
  isCounted: boolean
}
/**
 * `reused`: the images of an earlier job are the result, free of charge. `joined`: the request joined the job of an equal request without
 * an Idempotency-Key. `rates` are for the response headers.
 */
export type SubmittedJob = { job: JobRecord; reused: boolean; joined?: boolean; rates: RateState[] }

type AdmissionOutcome =
  | { reused: JobRecord; rates: RateState[] }
  | { reservation: Reservation; isRepeated: boolean; rates: RateState[] }

/** Reads `Idempotency-Key`: a structured-field string or a bare one, 1 to 255 characters. Errors: invalid_request. */
export function parseIdempotencyKey(header: string | undefined): string | null {
  if (header === undefined) return null
  const trimmed = header.trim()
  const isQuoted = trimmed.length >= 2 && trimmed.startsWith('"') && trimmed.endsWith('"')
  const name = isQuoted ? trimmed.slice(1, -1) : trimmed
  if (name && name.length <= 255) return name
  throw new ApiError('invalid_request', `Idempotency-Key has ${name.length} characters; it must have 1 to 255.`)
}

/** Admits the request, or finds its earlier reservation or a job with the same images. Errors: the account's refusals. */
async function admit(env: Env, submission: Submission): Promise<AdmissionOutcome> {
  // Moderation precedes the reservation of a price.
  checkConfig(env)
  const account = objectOf(env.ACCOUNT, submission.spec.account)
  const { inputs: _, ...admitted } = submission
  const admission = await account.admit({ ...admitted, exhausted: await isGpuBudgetExhausted(env) })
  const refusal = createAdmissionError(admission)
  if (refusal) throw refusal
  switch (admission.kind) {
    case 'admitted':
      return { reservation: admission.reservation, isRepeated: false, rates: admission.rates }
    case 'repeated':
      return { reservation: admission.reservation, isRepeated: true, rates: [] }
    case 'reused': {
      const reused = await objectOf(env.JOB, admission.job).view()
      if (reused && (await areStored(env, reused.images))) return { reused, rates: admission.rates }
      return admit(env, { ...submission, reuse: false })
    }
    default:
      throw new Error(`the account answered ${admission.kind}`)
  }
}

/**
 * Checks that a job has the price and the fingerprint of its reservation, because no other job is paid for. Throws on a mismatch, and for a
 * missing job: an expiring reservation gets none.
 */
function checkJob(job: JobRecord | null, { job: id, price, fingerprint }: Reservation): JobRecord {
  if (job?.price === price && job.fingerprint === fingerprint) return job
  log('error', 'a job does not match its reservation', { job: id, price, found: job?.price })
  throw new Error(`the job ${id} does not match its reservation`)
}

/** The submission with the verdict of the content policy in its job. Errors: content_policy_violation, moderation_unavailable. */
async function withVerdict(env: Env, submission: Submission): Promise<Submission> {
  const content = await checkContent(env, submission.spec)
  return content ? { ...submission, spec: { ...submission.spec, content } } : submission
}

type Begin = (reservation: Reservation, isRepeated: boolean) => Promise<JobRecord | null>

/** Whether a job is being canceled, so that a request must not join it. */
async function isEnding(env: Env, { job: id }: Reservation): Promise<boolean> {
  const job = await objectOf(env.JOB, id).view()
  return job?.cancelRequested === true && job.state !== 'succeeded'
}

/** Admits the checked request and begins its job, or returns an earlier job with the same images. */
async function admitAndBegin(env: Env, submission: Submission, begin: Begin): Promise<SubmittedJob> {
  const admitted = await admit(env, submission)
  if ('reused' in admitted) return { job: admitted.reused, reused: true, rates: admitted.rates }
  const { reservation, isRepeated, rates } = admitted
  const joined = isRepeated && submission.idempotencyKey === null && submission.spec.name === null
  if (joined && (await isEnding(env, reservation)))
    return admitAndBegin(env, { ...submission, retried: false, joins: false }, begin)
  // The job of a settled reservation has ended, and its inputs are deleted.
  if (reservation.spec) await storeInputs(env, reservation.spec, submission.inputs)
  return { job: checkJob(await begin(reservation, isRepeated), reservation), reused: false, joined, rates }
}

/** The same for a request whose content is not checked yet. */
const start = async (env: Env, submission: Submission, begin: Begin): Promise<SubmittedJob> =>
  admitAndBegin(env, await withVerdict(env, submission), begin)

/** Admits the request and starts its job without waiting for the result. Repeating the request returns the same job. */
export const submit = (env: Env, submission: Submission): Promise<SubmittedJob> =>
  start(env, submission, (reservation) => objectOf(env.JOB, reservation.job).create(reservation))

function retryHeaders(code: ErrorCode): Record<string, string> {
  if (code === 'gpu_budget_exhausted') return createNextDayHeaders()
  return code === 'gpu_unavailable' ? { 'retry-after': '30' } : {}
}

/** The error response for a waiting caller whose job did not succeed. */
export function describeFailure({ id, state, error }: JobRecord): ApiError {
  const headers = { 'x-octet-job': id }
  if (state === 'canceled' || !error)
    return new ApiError('job_canceled', 'The job was canceled.', { headers: { ...headers, 'x-should-retry': 'false' } })
  return new ApiError(error.code, error.message, { headers: { ...headers, ...retryHeaders(error.code) } })
}

/** Refuses a request while the job of an earlier request with the same Idempotency-Key is running. Errors: idempotency_in_flight. */
async function refuseInFlight(env: Env, { job: id }: Reservation): Promise<void> {
  const job = await objectOf(env.JOB, id).view()
  if (!job || isFinal(job)) return
  const message = 'The first request with this Idempotency-Key is still running; ask again in a moment.'
  throw new ApiError('idempotency_in_flight', message, { headers: { 'retry-after': '2', 'x-octet-job': id } })
}

/**
 * A waiting caller. `id` identifies it among the callers of the same job, `onJob` receives the job's id before the wait, and `keepAlive`
 * lets work finish after the caller has disconnected.
 */
type WaitingCaller = { id: string; onJob: (job: string) => void; keepAlive: (work: Promise<unknown>) => void }

/** Runs the request's job and returns it after its success. Errors: the account's refusals, and the job's failure or cancellation. */
export async function generateNow(env: Env, submission: Submission, caller: WaitingCaller): Promise<SubmittedJob> {
  // An end between the admission and the job would leave a reservation that blocks its price and slot.
  const { promise: isRunning, resolve } = Promise.withResolvers<void>()
  caller.keepAlive(isRunning)
  try {
    const submitted = await start(env, submission, async (reservation, isRepeated) => {
      if (isRepeated && submission.idempotencyKey !== null) await refuseInFlight(env, reservation)
      caller.onJob(reservation.job)
      const running = objectOf(env.JOB, reservation.job).run(reservation, caller.id)
      resolve()
      return running
    })
    if (submitted.job.state !== 'succeeded') throw describeFailure(submitted.job)
    return submitted
  } finally {
    resolve()
  }
}

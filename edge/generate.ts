// From a request to its job: one call to the account, then the job object. A caller waits for the job or leaves it to itself.
import type { Reservation } from './account-ledger.ts'
import type { Env } from './env.ts'
import { ApiError } from './errors.ts'
import { readGpuTimes } from './gpu-times.ts'
import { isFinal, type JobRecord, type JobSpec } from './job-record.ts'
import type { Credential } from './keys.ts'
import type { RateState } from './limits.ts'
import { log } from './log.ts'
import { objectOf } from './objects.ts'
import { refusedBy } from './refusals.ts'
import { areStored } from './results.ts'

/** A parsed request for a job. `retried`: a client repeats a request whose outcome it does not know. */
export type Submission = {
  credential: Credential
  spec: JobSpec
  idempotencyKey: string | null
  retried: boolean
  reuse: boolean
}
/** `known`: an earlier request was admitted as this job. `reused`: its images are the answer, at no price. `rates` are for the reply's headers. */
export type Submitted = { job: JobRecord; known: boolean; reused: boolean; rates: RateState[] }

type Admitted =
  | { reused: JobRecord; rates: RateState[] }
  | { reservation: Reservation; known: boolean; rates: RateState[] }

/** Reads `Idempotency-Key`: a structured-field string or a bare one, 1 to 255 characters. Errors: invalid_request. */
export function idempotencyKey(header: string | undefined): string | null {
  if (header === undefined) return null
  const trimmed = header.trim()
  const isQuoted = trimmed.length >= 2 && trimmed.startsWith('"') && trimmed.endsWith('"')
  const name = isQuoted ? trimmed.slice(1, -1) : trimmed
  if (name && name.length <= 255) return name
  throw new ApiError('invalid_request', `Idempotency-Key has ${name.length} characters; it must have 1 to 255.`)
}

/** Admits the request, or finds the reservation or the job that answers it. Errors: the account's refusals. */
async function admit(env: Env, submission: Submission): Promise<Admitted> {
  // A deployment that cannot run a job must not reserve for one.
  readGpuTimes(env)
  const account = objectOf(env.ACCOUNT, submission.spec.account)
  const admission = await account.admit(submission)
  const refusal = refusedBy(admission)
  if (refusal) throw refusal
  switch (admission.kind) {
    case 'admitted':
      return { reservation: admission.reservation, known: false, rates: admission.rates }
    case 'repeated':
      return { reservation: admission.reservation, known: true, rates: [] }
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
 * The job of a reservation, which must have the reservation's price and fingerprint: a job that differs was paid for by nobody. Throws when
 * there is no job, which a reservation about to be released does not get any more.
 */
function checkJob(job: JobRecord | null, { job: id, price, fingerprint }: Reservation): JobRecord {
  if (job?.price === price && job.fingerprint === fingerprint) return job
  log('error', 'a job does not match its reservation', { job: id, price, found: job?.price })
  throw new Error(`the job ${id} does not match its reservation`)
}

/** Admits the request and leaves its job to itself. The same request again gives the same job. */
export async function submit(env: Env, submission: Submission): Promise<Submitted> {
  const admitted = await admit(env, submission)
  if ('reused' in admitted) return { job: admitted.reused, known: true, reused: true, rates: admitted.rates }
  const { reservation, known, rates } = admitted
  const job = checkJob(await objectOf(env.JOB, reservation.job).create(reservation), reservation)
  return { job, known, reused: false, rates }
}

/** The error for a waiting caller whose job ended without an image. */
function describeFailure({ id, state, error }: JobRecord): ApiError {
  const headers = { 'x-octet-job': id }
  if (state === 'canceled' || !error)
    return new ApiError('job_canceled', 'The job was canceled.', { headers: { ...headers, 'x-should-retry': 'false' } })
  const retry = error.code === 'gpu_unavailable' ? { 'retry-after': '30' } : {}
  return new ApiError(error.code, error.message, { headers: { ...headers, ...retry } })
}

/** Refuses to wait for a job that runs for an earlier request with the same Idempotency-Key. Errors: idempotency_in_flight. */
async function refuseInFlight(env: Env, { job: id }: Reservation): Promise<void> {
  const job = await objectOf(env.JOB, id).view()
  if (!job || isFinal(job)) return
  const message = 'The first request with this Idempotency-Key is still running; ask again in a moment.'
  throw new ApiError('idempotency_in_flight', message, { headers: { 'retry-after': '2', 'x-octet-job': id } })
}

/** A waiting caller: `id` names it among others; `onJob` receives the job's id before the wait. */
export type WaitingCaller = { id: string; onJob: (job: string) => void }

/** Runs the request's job while the caller waits and returns it succeeded. Errors: the account's refusals, and the reason of a job without success. */
export async function generateNow(env: Env, submission: Submission, caller: WaitingCaller): Promise<Submitted> {
  const admitted = await admit(env, submission)
  if ('reused' in admitted) return { job: admitted.reused, known: true, reused: true, rates: admitted.rates }
  const { reservation, known, rates } = admitted
  if (known && submission.idempotencyKey !== null) await refuseInFlight(env, reservation)
  caller.onJob(reservation.job)
  const final = checkJob(await objectOf(env.JOB, reservation.job).run(reservation, caller.id), reservation)
  if (final.state !== 'succeeded') throw describeFailure(final)
  return { job: final, known, reused: false, rates }
}

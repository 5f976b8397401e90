// From a request to its job: one call to the account, then the job object, which a caller waits for or leaves to its Workflow.
import type { Admission } from './admission.ts'
import { forbidden, unauthorised } from './auth.ts'
import type { Env } from './env.ts'
import { ApiError } from './errors.ts'
import { readGpuTimes } from './gpu-times.ts'
import { isFinal, type JobRecord, type JobSpec } from './job-record.ts'
import type { Credential } from './keys.ts'
import type { RateState } from './limits.ts'
import { log } from './log.ts'
import { refusedBy } from './refusals.ts'
import { findReusable } from './reuse.ts'

/** A request for a job as it came in. `retried`: a client repeats a request of which it does not know the fate. */
export type Submission = {
  credential: Credential
  spec: JobSpec
  idempotencyKey: string | null
  retried: boolean
  reuse: boolean
}
/** `known`: the job was let in by an earlier request; `reused`: and it stands in for this one, at no price. `rates` are for the reply's headers. */
export type Submitted = { job: JobRecord; known: boolean; reused: boolean; rates: RateState[] }

/** Who makes the first attempt. */
type DrivenBy = 'caller' | 'Workflow'

/** Reads `Idempotency-Key`: a structured-field string or a bare one, 1 to 255 characters. Errors: invalid_request. */
export function idempotencyKey(header: string | undefined): string | null {
  if (header === undefined) return null
  const name = header.trim().replace(/^"(.*)"$/, '$1')
  if (name && name.length <= 255) return name
  throw new ApiError('invalid_request', `Idempotency-Key has ${name.length} characters; it must have 1 to 255.`)
}

/**
 * The job of a request that was let in before. A worker that died between reservation and job left an id without a job; null when the
 * reservation is gone as well: run under that id, the job would be free.
 */
async function knownJob(env: Env, id: string, spec: JobSpec, drivenBy: DrivenBy): Promise<JobRecord | null> {
  const object = env.JOB.getByName(id)
  const known = await object.view()
  if (!known && (await env.ACCOUNT.getByName(spec.account).forget(id))) return null
  const job = known ?? (await object.create({ ...spec, id }, drivenBy))
  if (spec.name === null || job.fingerprint === spec.fingerprint) return job
  throw new ApiError('idempotency_mismatch', `The job ${spec.name} was asked for with another request; use a new id.`, {
    headers: { 'x-should-retry': 'false' },
  })
}

/** Lets the request in and creates its job, or finds the one it already has. Errors: what the account refuses. */
async function admit(env: Env, submission: Submission, drivenBy: DrivenBy): Promise<Submitted> {
  // A deployment that cannot run a job must not reserve for one.
  readGpuTimes(env)
  const { credential, spec, idempotencyKey, retried } = submission
  const { id, account, price, fingerprint, decision } = spec
  const admission: Admission = await env.ACCOUNT.getByName(account).admit({
    credential,
    job: id,
    tier: decision.tier,
    price,
    idempotency: idempotencyKey === null ? null : { name: idempotencyKey, fingerprint },
    body: { fingerprint, retried: retried && idempotencyKey === null },
  })
  const refusal = refusedBy(admission)
  if (refusal) throw refusal
  if (admission.kind === 'repeated') {
    const job = await knownJob(env, admission.job, spec, drivenBy)
    return job ? { job, known: true, reused: false, rates: [] } : admit(env, submission, drivenBy)
  }
  const rates = admission.kind === 'admitted' ? admission.rates : []
  return { job: await env.JOB.getByName(id).create(spec, drivenBy), known: false, reused: false, rates }
}

/** An identical finished job of the account, where the request takes one. It costs nothing, but the key must hold. */
async function reused(env: Env, { credential, spec, reuse }: Submission): Promise<Submitted | null> {
  if (!reuse) return null
  const { kind } = await env.ACCOUNT.getByName(spec.account).authenticate(credential, 'generate')
  if (kind === 'unauthorised') throw unauthorised()
  if (kind === 'forbidden') throw forbidden('generate')
  const job = await findReusable(env, spec.account, spec.request)
  return job && { job, known: true, reused: true, rates: [] }
}

/** Lets the request in and leaves its job to the Workflow. The same request again gives the same job. */
export async function submit(env: Env, submission: Submission): Promise<Submitted> {
  const before = await reused(env, submission)
  if (before) return before
  const submitted = await admit(env, submission, 'Workflow')
  if (submitted.known && submitted.job.attempt === 0) await env.JOB.getByName(submitted.job.id).start()
  return submitted
}

/** Waits for a job's end. A job object that restarts under us (a deploy, an eviction) is asked again: it carries on by itself. */
async function runToEnd(env: Env, id: string): Promise<JobRecord> {
  for (let tries = 1; ; tries++) {
    try {
      return await env.JOB.getByName(id).run()
    } catch (cause) {
      if (tries === 3) throw cause
      log('warn', 'the job object restarted', { job: id, cause })
    }
  }
}

/** Why a job that has ended gives its waiting caller no image. */
function unsuccessful({ id, state, error }: JobRecord): ApiError {
  const headers = { 'x-octet-job': id }
  if (state === 'canceled' || !error)
    return new ApiError('job_canceled', 'The job was canceled.', { headers: { ...headers, 'x-should-retry': 'false' } })
  const retry = error.code === 'gpu_unavailable' ? { 'retry-after': '30' } : {}
  return new ApiError(error.code, error.message, { headers: { ...headers, ...retry } })
}

/** Runs the request's job while the caller waits and returns it succeeded; `onJob` is told its id first. Errors: what the account refuses, and why the job did not succeed. */
export async function generateNow(env: Env, submission: Submission, onJob: (id: string) => void): Promise<Submitted> {
  const before = await reused(env, submission)
  if (before) return before
  const { job, known, rates } = await admit(env, submission, 'caller')
  if (known && submission.idempotencyKey !== null && !isFinal(job) && job.attempt > 0) {
    const message = 'The first request with this Idempotency-Key is still running; ask again in a moment.'
    throw new ApiError('idempotency_in_flight', message, { headers: { 'retry-after': '1', 'x-octet-job': job.id } })
  }
  onJob(job.id)
  const final = await runToEnd(env, job.id)
  if (final.state !== 'succeeded') throw unsuccessful(final)
  return { job: final, known, reused: false, rates }
}

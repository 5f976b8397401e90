// An interactive request from reservation to final state: one call to the account, then the job, which the caller waits for.

import { unauthorised } from './auth.ts'
import type { Env } from './env.ts'
import { ApiError } from './errors.ts'
import { readGpuTimes } from './gpu-times.ts'
import { isFinal, type JobRecord, type JobSpec } from './job-record.ts'
import type { Credential } from './keys.ts'
import { log } from './log.ts'

type Idempotency = { name: string; fingerprint: string } | null

/** Reads `Idempotency-Key`: a structured-field string or a bare one, 1 to 255 characters. Errors: invalid_request. */
export function idempotencyName(header: string | undefined): string | null {
  if (header === undefined) return null
  const name = header.trim().replace(/^"(.*)"$/, '$1')
  if (name && name.length <= 255) return name
  throw new ApiError('invalid_request', `Idempotency-Key has ${name.length} characters; it must have 1 to 255.`)
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

/** The job to wait for, or the final one that this Idempotency-Key already stands for. */
async function admit(env: Env, credential: Credential, spec: JobSpec, idempotency: Idempotency): Promise<JobRecord> {
  const account = env.ACCOUNT.getByName(spec.account)
  const admission = await account.admit({ credential, job: spec.id, price: spec.price, idempotency })
  if (admission.kind === 'unauthorised') throw unauthorised()
  if (admission.kind === 'mismatch') {
    throw new ApiError('idempotency_mismatch', 'This Idempotency-Key was used with another request; use a new one.')
  }
  if (admission.kind === 'admitted') return env.JOB.getByName(spec.id).create(spec)
  const known = await env.JOB.getByName(admission.job).view()
  if (known && !isFinal(known)) {
    const message = 'The first request with this Idempotency-Key is still running; ask again in a moment.'
    throw new ApiError('idempotency_in_flight', message, { headers: { 'retry-after': '1' } })
  }
  if (known) return known
  // A worker that died between reservation and job left a key without a job.
  if (admission.reserved) return env.JOB.getByName(admission.job).create({ ...spec, id: admission.job })
  // Its reservation is gone as well: run under that id, the job would be free.
  await account.releaseAndForget(admission.job)
  return admit(env, credential, spec, idempotency)
}

/** Reserves the price, runs the job and returns it succeeded. Errors: what the account refuses, and why the job failed. */
export async function generateNow(
  env: Env,
  credential: Credential,
  spec: JobSpec,
  idempotency: Idempotency,
): Promise<JobRecord> {
  // A deployment that cannot run a job must not reserve for one.
  readGpuTimes(env)
  const { id, state } = await admit(env, credential, spec, idempotency)
  const job = await runToEnd(env, id)
  if (job.state === 'succeeded') return job
  const { code, message } = job.error ?? {
    code: 'generation_failed',
    message: `The job ended ${state}. Nothing was charged.`,
  }
  const retry = code === 'gpu_unavailable' ? { 'retry-after': '30' } : {}
  throw new ApiError(code, message, { headers: { 'x-octet-job': id, ...retry } })
}

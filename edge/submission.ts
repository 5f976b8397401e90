// What a request for images says: its fields, whose it is, and how it stands to an earlier one of the same.
import type { Context } from 'hono'
import type { EdgeEnv } from './env.ts'
import { ApiError } from './errors.ts'
import { idempotencyKey, type Submission } from './generate.ts'
import { type Generation, generation, specify } from './generation-request.ts'
import type { JobRecord } from './job-record.ts'
import { objectOf } from './objects.ts'
import { parseFields, readJson } from './validation.ts'

// OpenAI's clients send null for a field that is not set.
const withoutNulls = (body: unknown) =>
  typeof body === 'object' && body !== null && !Array.isArray(body)
    ? Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null))
    : body

/** A browser token is in the hands of a visitor, who must neither reach other visitors' images nor send anything in the account's name. */
function checkTokenFields({ webhook, reuse }: Generation): void {
  const param = webhook !== undefined ? 'webhook' : reuse ? 'reuse' : null
  if (param)
    throw new ApiError('insufficient_scope', `A browser token may not use ${param}; use its API key.`, { param })
}

/**
 * Reads a request for images. `name` is the id that the caller gives the job. A retry of an SDK that brings no Idempotency-Key is known
 * by its count; a request with a seed of its own makes the same images each time, so it may share a job as well.
 */
export async function readSubmission(
  c: Context<EdgeEnv>,
  name: string | null = null,
): Promise<{ fields: Generation; submission: Submission }> {
  const fields = parseFields(generation, generation.shape, withoutNulls(await readJson(c)))
  const credential = c.get('credential')
  if ('token' in credential) checkTokenFields(fields)
  const spec = await specify(fields, c.env, credential, { origin: new URL(c.req.url).origin, name })
  const retried = fields.seed !== undefined || Number(c.req.header('x-stainless-retry-count') ?? 0) > 0
  const key = idempotencyKey(c.req.header('idempotency-key'))
  return { fields, submission: { credential, spec, idempotencyKey: key, retried, reuse: fields.reuse ?? false } }
}

/**
 * Cancels a job when the caller that waits for it disconnects before the reply, where the request asks for that. `onJob` receives the job's
 * id; `done` must be called once there is a reply.
 */
export function watchCaller(c: Context<EdgeEnv>, { on_disconnect }: Generation) {
  const id = crypto.randomUUID()
  const { promise, resolve } = Promise.withResolvers<void>()
  const { signal } = c.req.raw
  const over = new AbortController()
  const watch = (job: string) => {
    const leave = () => resolve(objectOf(c.env.JOB, job).leave(id))
    if (signal.aborted) leave()
    else signal.addEventListener('abort', leave, { once: true, signal: over.signal })
    // Without it the request ends with the connection, before the signal is heard; workerd pull request 5062.
    c.executionCtx.waitUntil(promise)
  }
  const done = () => {
    over.abort()
    resolve()
  }
  return { id, onJob: on_disconnect === 'cancel' ? watch : () => {}, done }
}

/** Waits for a job's end, at most `limitMs`, on behalf of the caller that requested it and may cancel it by disconnecting. */
export async function waitAsCaller(
  c: Context<EdgeEnv>,
  fields: Generation,
  job: string,
  limitMs: number,
): Promise<JobRecord> {
  const caller = watchCaller(c, fields)
  caller.onJob(job)
  const id = fields.on_disconnect === 'cancel' ? caller.id : undefined
  return objectOf(c.env.JOB, job)
    .ended(Date.now() + limitMs, id)
    .finally(caller.done)
}

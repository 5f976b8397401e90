// Reads image requests, and handles callers that wait for the result.
import type { Context } from 'hono'
import type { Dialect } from '../dialects/dialect.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { parseFields, readJson } from '../http/validation.ts'
import type { JobRecord } from '../jobs/record.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { idempotencyKey, type Submission } from './generate.ts'
import { createJobSpec, type Generation, generation } from './generation-request.ts'

/** The native request for a body. Null fields, which many clients send for unset ones, are removed. A body that is no object is unchanged. */
function nativeBody(body: unknown, dialect: Dialect | undefined): unknown {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) return body
  const fields = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null))
  return dialect ? dialect.parse(fields) : fields
}

/** Rejects fields that are forbidden for browser tokens: a visitor must not get other visitors' images or send webhooks for the account. */
function checkTokenFields({ webhook, reuse }: Generation): void {
  const param = webhook !== undefined ? 'webhook' : reuse ? 'reuse' : null
  if (param)
    throw new ApiError('insufficient_scope', `A browser token may not use ${param}; use its API key.`, { param })
}

/**
 * Reads an image request of a dialect, or of the native API. `name` is the caller's name for the job. An SDK's retry without an Idempotency-Key is recognized by its retry
 * count. A request with an explicit seed always gives the same images, so it may share a job too.
 */
export async function readSubmission(
  c: Context<EdgeEnv>,
  { name = null, dialect }: { name?: string | null; dialect?: Dialect } = {},
): Promise<{ fields: Generation; submission: Submission }> {
  const fields = parseFields(generation, generation.shape, nativeBody(await readJson(c), dialect))
  const credential = c.get('credential')
  if ('token' in credential) checkTokenFields(fields)
  const spec = await createJobSpec(fields, c.env, credential, {
    origin: new URL(c.req.url).origin,
    name,
    dialect: dialect?.name ?? null,
  })
  const retried = fields.seed !== undefined || Number(c.req.header('x-stainless-retry-count') ?? 0) > 0
  const key = idempotencyKey(c.req.header('idempotency-key'))
  return { fields, submission: { credential, spec, idempotencyKey: key, retried, reuse: fields.reuse ?? false } }
}

/**
 * Cancels a job when its waiting caller disconnects before the response, if the request has `on_disconnect: cancel`. `onJob` takes the
 * job's id; `done` must be called before the response is returned.
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
    // Otherwise the runtime ends the request with the connection, before the abort event; workerd pull request 5062.
    c.executionCtx.waitUntil(promise)
  }
  const done = () => {
    over.abort()
    resolve()
  }
  const keepAlive = (work: Promise<unknown>) => c.executionCtx.waitUntil(work)
  return { id, onJob: on_disconnect === 'cancel' ? watch : () => {}, keepAlive, done }
}

/** Waits for a job's end, at most `limitMs` milliseconds, for its caller, whose disconnection may cancel it. */
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

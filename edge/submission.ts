// What a request for images says: its fields, whose it is, and how it stands to an earlier one of the same.
import type { Context } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { LIMITS } from '#contract'
import type { EdgeEnv } from './env.ts'
import { ApiError } from './errors.ts'
import { idempotencyKey, type Submission } from './generate.ts'
import { type Generation, generation, specify } from './generation-request.ts'
import { parseFields, readJson } from './validation.ts'

/** Refuses bodies over the contract's limit. */
export const bodyLimited = bodyLimit({
  maxSize: LIMITS.requestBytes,
  onError: () => {
    throw new ApiError('body_too_large', `The body is larger than ${LIMITS.requestBytes} bytes.`)
  },
})

// OpenAI's clients send null for a field that is not set.
const withoutNulls = (body: unknown) =>
  typeof body === 'object' && body !== null && !Array.isArray(body)
    ? Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null))
    : body

/**
 * Reads a request for images. `name` is the id that the caller gives the job. A retry of an SDK that brings no Idempotency-Key is known
 * by its count; a request with a seed of its own makes the same images each time, so it may share a job as well.
 */
export async function readSubmission(
  c: Context<EdgeEnv>,
  name: string | null = null,
): Promise<{ fields: Generation; submission: Submission }> {
  const fields = parseFields(generation, generation.shape, withoutNulls(await readJson(c.req.raw)))
  const credential = c.get('credential')
  const spec = await specify(fields, c.env, credential, { origin: new URL(c.req.url).origin, name })
  const retried = fields.seed !== undefined || Number(c.req.header('x-stainless-retry-count') ?? 0) > 0
  const key = idempotencyKey(c.req.header('idempotency-key'))
  return { fields, submission: { credential, spec, idempotencyKey: key, retried, reuse: fields.reuse ?? false } }
}

/**
 * Lets a job end with the caller who waits for it, where the request says so: when the connection closes before the reply. `job` is called
 * with the job's id, `done` once there is a reply.
 */
export function watchCaller(c: Context<EdgeEnv>, { on_disconnect }: Generation) {
  const { promise, resolve } = Promise.withResolvers<void>()
  const watch = (job: string) => {
    const leave = () => resolve(c.env.JOB.getByName(job).leave())
    if (c.req.raw.signal.aborted) leave()
    else c.req.raw.signal.addEventListener('abort', leave, { once: true })
    // Without it the request ends with the connection, before the signal is heard; workerd pull request 5062.
    c.executionCtx.waitUntil(promise)
  }
  return { job: on_disconnect === 'cancel' ? watch : () => {}, done: () => resolve() }
}

// Reads image requests, and handles callers that wait for the result.
import type { Context } from 'hono'
import { LIMITS } from '#contract'
import type { Announced } from '../accounts/admission.ts'
import { requireScope } from '../auth/auth.ts'
import { configOf } from '../config.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { limitBody } from '../http/request-body.ts'
import { isForm, readForm, readJson } from '../http/validation.ts'
import { isFinal, type JobRecord } from '../jobs/record.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { controlImageOf } from './controls.ts'
import { generateNow, parseIdempotencyKey, type Submission, type SubmittedJob, submit } from './generate.ts'
import { type Addition, createJobSpec, type Generation, parseGeneration } from './generation-request.ts'
import { toTypedFields, withFilesAsText } from './inputs/form-fields.ts'
import { isAddress, readInputs } from './inputs/read-inputs.ts'
import { createAdmissionError } from './refusals.ts'

/** Removes null fields, which many clients send for unset ones. A body other than an object is unchanged. */
export function removeNulls(body: unknown): unknown {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) return body
  return Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null))
}

/** Rejects fields that are forbidden for browser tokens: a visitor must not get other visitors' images or send webhooks for the account. */
function checkTokenFields({ webhook, reuse }: Generation): void {
  const param = webhook !== undefined ? 'webhook' : reuse ? 'reuse' : null
  if (param)
    throw new ApiError('insufficient_scope', `A browser token may not use ${param}; use its API key.`, { param })
}

/** The caller's name for the job, and the dialect of the request. `joins`: whether it joins a recent equal request that is running. */
type Source = Addition & { name?: string | null; dialect?: string | null; joins?: boolean }

/**
 * Validates a native request and creates its submission. An SDK's retry without an Idempotency-Key is recognized by its retry count. A
 * request with an explicit seed always produces the same images, so it may share a job too.
 */
export async function createSubmission(
  c: Context<EdgeEnv>,
  body: unknown,
  { name = null, dialect = null, joins = false, ...addition }: Source = {},
): Promise<{ fields: Generation; submission: Submission }> {
  const fields = parseGeneration(isRecord(body) ? await withFilesAsText(body) : body)
  const credential = c.get('credential')
  if ('token' in credential) checkTokenFields(fields)
  const retried = fields.seed !== undefined || Number(c.req.header('x-stainless-retry-count') ?? 0) > 0
  const key = parseIdempotencyKey(c.req.header('idempotency-key'))
  const given = imagesOf(fields)
  const isCounted = causesFetch(c.env, given)
  const openInputs = async (price: number) => {
    if (isCounted) await permit(c, { credential, name, price, idempotencyKey: key, retried, joins })
    else if (given.length > 0) await requireScope(c, 'generate')
    return readInputs({ env: c.env, credential, ownUrl: c.req.url }, Object.fromEntries(given))
  }
  const source = { origin: new URL(c.req.url).origin, name, dialect, openInputs, ...addition }
  const { spec, inputs } = await createJobSpec(fields, c.env, credential, source)
  const reuse = fields.reuse ?? false
  return { fields, submission: { credential, spec, inputs, idempotencyKey: key, retried, joins, reuse, isCounted } }
}

/** The images of a request by the names of the contract. */
const imagesOf = (fields: Generation): [string, string][] =>
  Object.entries({ image: fields.image, mask: fields.mask, control: controlImageOf(fields) }).filter(
    (each): each is [string, string] => each[1] !== undefined,
  )

/** Whether the worker sends requests to other services before the admission of the job: for moderation, or for an image. */
const causesFetch = (env: Env, images: readonly [string, string][]): boolean =>
  configOf(env).contentPolicy.moderation !== undefined || images.some(([, given]) => isAddress(given))

/**
 * Refuses a request before it causes work that is not charged: with an inactive key, over its rate limit, or over its budget. The admission
 * remains authoritative. Errors: the account's refusals.
 */
async function permit(c: Context<EdgeEnv>, announced: Announced): Promise<void> {
  const refusal = createAdmissionError(await objectOf(c.env.ACCOUNT, announced.credential.account).permit(announced))
  if (refusal) throw refusal
}

const isRecord = (body: unknown): body is Record<string, unknown> =>
  typeof body === 'object' && body !== null && !Array.isArray(body)

/** Names of fields that may have an input image, in the native API and in dialects. */
const IMAGE_NAME = /image|mask|control|alwayson_scripts|^inputs?$/i
const hasImageField = (body: unknown) => isRecord(body) && Object.keys(body).some((name) => IMAGE_NAME.test(name))

/** Refuses a body without input images above the limit for such bodies. Errors: body_too_large. */
export function limitBodyWithoutImage(c: Context<EdgeEnv>, body: unknown): void {
  if (!hasImageField(body)) limitBody(c, LIMITS.requestBytes)
}

/** Reads a native request. `name` is the caller's name for the job. */
export async function readSubmission(c: Context<EdgeEnv>, name: string | null = null) {
  const body = isForm(c) ? toTypedFields(await readForm(c)) : removeNulls(await readJson(c))
  limitBodyWithoutImage(c, body)
  return createSubmission(c, body, { name })
}

/**
 * Watches for the disconnection of a waiting caller before the response. With `on_disconnect: cancel` it cancels the job; otherwise the job
 * is kept for a retry, if its requests join equal ones. `onJob` takes the job's id; `done` must be called before the response is returned,
 * or at the end of a stream, which calls `leave` when its reader cancels it.
 */
export function watchCaller(c: Context<EdgeEnv>, { on_disconnect }: Generation, isKept = false) {
  const id = crypto.randomUUID()
  const { promise, resolve } = Promise.withResolvers<void>()
  const { signal } = c.req.raw
  const over = new AbortController()
  const cancels = on_disconnect === 'cancel'
  const keep = (job: string) => objectOf(c.env.ACCOUNT, c.get('credential').account).keepUndelivered(job)
  const leave = (job: string) => {
    if (over.signal.aborted) return
    if (cancels) resolve(objectOf(c.env.JOB, job).leave(id))
    else if (isKept) resolve(keep(job))
  }
  const watch = (job: string) => {
    if (signal.aborted) leave(job)
    else signal.addEventListener('abort', () => leave(job), { once: true, signal: over.signal })
    // Without this, the runtime ends the request with the connection, before the abort event; workerd pull request 5062.
    c.executionCtx.waitUntil(promise)
  }
  const done = () => {
    over.abort()
    resolve()
  }
  const keepAlive = (work: Promise<unknown>) => c.executionCtx.waitUntil(work)
  return { id, onJob: cancels || isKept ? watch : () => {}, leave, keepAlive, done }
}

/** Waits for a job's end, at most `limitMs` milliseconds, for its caller, whose disconnection may cancel it. */
async function waitAsCaller(c: Context<EdgeEnv>, fields: Generation, job: string, limitMs: number): Promise<JobRecord> {
  const caller = watchCaller(c, fields)
  caller.onJob(job)
  const id = fields.on_disconnect === 'cancel' ? caller.id : undefined
  return objectOf(c.env.JOB, job)
    .ended(Date.now() + limitMs, id)
    .finally(caller.done)
}

/**
 * Runs the request's job and returns it after its success. `onJob` receives its id before the wait. Errors: the account's refusals, and the
 * job's failure or cancellation.
 */
export function generateAsCaller(
  c: Context<EdgeEnv>,
  fields: Generation,
  submission: Submission,
  onJob: (job: string) => void = () => {},
): Promise<SubmittedJob> {
  const caller = watchCaller(c, fields, submission.joins && submission.idempotencyKey === null)
  const announce = (job: string) => {
    onJob(job)
    caller.onJob(job)
  }
  return generateNow(c.env, submission, { ...caller, onJob: announce }).finally(caller.done)
}

/** Submits the job even if the caller disconnects, because a reservation without a job would block its price and slot. */
function submitDetached(c: Context<EdgeEnv>, submission: Submission): Promise<SubmittedJob> {
  const submitting = submit(c.env, submission)
  c.executionCtx.waitUntil(submitting.catch(() => {}))
  return submitting
}

/** Submits the job and waits for its end, at most `limitMs` milliseconds. */
export async function submitAndWait(
  c: Context<EdgeEnv>,
  fields: Generation,
  submission: Submission,
  limitMs: number,
): Promise<SubmittedJob> {
  const submitted = await submitDetached(c, submission)
  if (limitMs <= 0 || isFinal(submitted.job)) return submitted
  return { ...submitted, job: await waitAsCaller(c, fields, submitted.job.id, limitMs) }
}

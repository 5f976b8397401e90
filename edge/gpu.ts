// The one place that talks to the GPU function: signs the request, waits until a GPU accepts it, and follows the reply stream.

import { importJWK, SignJWT } from 'jose'
import { GPU_TOKEN, type JobRequest, LIMITS, refusal } from '#contract'
import { jittered, sleep } from './backoff.ts'
import { type Frame, readFrames, readStart, StreamLost } from './gpu-stream.ts'
import type { GpuTimes } from './gpu-times.ts'
import { log } from './log.ts'

/** No GPU accepted the job before the deadline. */
export class GpuUnavailable extends Error {
  override name = 'GpuUnavailable' as const
}

/** The GPU function refused the job for good: a retry would be refused as well. `message` is for the log. */
export class GpuRefused extends Error {
  override name = 'GpuRefused' as const
}

/** An accepted job did not end in time, although its stream lived. */
export class GpuOverran extends Error {
  override name = 'GpuOverran' as const
}

export type GpuCall = GpuTimes & {
  /** Base address of the GPU function. */
  endpoint: string
  signingKey: string
  job: string
  request: JobRequest
  /** Ends the attempt with the reason it is aborted with: by the caller at will, by `generate` when a time has passed. */
  abort: AbortController
}

const utf8 = new TextEncoder()
const BACKOFF_MS = { first: 200, most: 5_000 }
const CANCEL_MS = 5_000

/**
 * Not accepted, so safe to send again: 429 queue full, 503 loading or scaled to zero, 500, 502, 504 and 520 to 530 from what stands
 * before it. Were a job accepted behind such an answer, the same id and attempt would join it.
 */
const notAccepted = (status: number) => [429, 500, 502, 503, 504].includes(status) || (status >= 520 && status <= 530)

/** A token for one request of one attempt, bound to the body's hash; contract.ts GPU_TOKEN. */
export async function signGpuToken(jwk: string, job: string, attempt: number, body: string): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', utf8.encode(body)))
  return new SignJWT({ body: hash.toBase64({ alphabet: 'base64url', omitPadding: true }) })
    .setProtectedHeader({ alg: GPU_TOKEN.algorithm })
    .setIssuer(GPU_TOKEN.issuer)
    .setAudience(GPU_TOKEN.audience)
    .setSubject(job)
    .setJti(`${job}.${attempt}`)
    .setIssuedAt()
    .setExpirationTime(`${GPU_TOKEN.maxAgeSeconds}s`)
    .sign(await importJWK(JSON.parse(jwk), GPU_TOKEN.algorithm))
}

type Sent = { method: 'PUT' | 'DELETE'; body: string; signal: AbortSignal }

async function send(
  { endpoint, signingKey, job, request }: GpuCall,
  { method, body, signal }: Sent,
): Promise<Response> {
  const token = await signGpuToken(signingKey, job, request.attempt, body)
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
  const url = `${endpoint.replace(/\/$/, '')}/jobs/${job}`
  return fetch(url, { method, headers, body: body || null, signal, redirect: 'manual' })
}

async function put(call: GpuCall): Promise<Response | null> {
  const { job, request, abort } = call
  return send(call, { method: 'PUT', body: JSON.stringify(request), signal: abort.signal }).catch((cause) => {
    abort.signal.throwIfAborted()
    log('warn', 'the GPU function cannot be reached', { job, attempt: request.attempt, cause })
    return null
  })
}

/** Asks the GPU function to stop the job. A job that is done for us does not wait for the answer. */
function cancel(call: GpuCall): void {
  const { job, request } = call
  send(call, { method: 'DELETE', body: '', signal: AbortSignal.timeout(CANCEL_MS) })
    .then(dismiss)
    .catch((cause) => log('warn', 'a job could not be canceled', { job, attempt: request.attempt, cause }))
}

/** Lets go of a body that nobody reads. Not awaited: cancelling a dead connection may never settle. */
function dismiss(response: Response | null): void {
  response?.body?.cancel().catch(() => {})
}

/** Backoff with jitter; the GPU function's own Retry-After wins where it is longer. */
function delayMs(tries: number, response: Response | null): number {
  const backoff = jittered(Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 1.6 ** tries))
  const asked = Number(response?.headers.get('retry-after') ?? 0) * 1000
  return Math.max(backoff, Math.min(asked || 0, BACKOFF_MS.most))
}

/** What a refusal says, for the log: at most one line's worth of its body. */
async function refusalText({ body, status }: Response, { silenceMs, abort: { signal } }: GpuCall): Promise<string> {
  const text = body ? await readStart(body, LIMITS.eventLineBytes, { silenceMs, signal }) : ''
  const parsed = refusal.safeParse(safeJson(text))
  return parsed.success ? `${status} ${parsed.data.code}: ${parsed.data.detail}` : `${status}: ${text.slice(0, 200)}`
}

function safeJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

/** Sends the job until a GPU accepts it. Throws GpuUnavailable at the deadline, GpuRefused on a 4xx, StreamLost on anything else. */
async function accepted(call: GpuCall): Promise<ReadableStream<Uint8Array>> {
  const deadline = Date.now() + call.startMs
  for (let tries = 0; ; tries++) {
    const response = await put(call)
    if (response?.status === 200 && response.body) return response.body
    if (response && !notAccepted(response.status)) {
      const text = await refusalText(response, call)
      throw response.status >= 400 && response.status < 500 ? new GpuRefused(text) : new StreamLost(text)
    }
    dismiss(response)
    const wait = delayMs(tries, response)
    if (Date.now() + wait > deadline)
      throw new GpuUnavailable(
        `not accepted within ${call.startMs} ms; the last answer was ${response?.status ?? 'none'}`,
      )
    await sleep(wait)
    call.abort.signal.throwIfAborted()
  }
}

const CONTENT_TYPES = { png: 'image/png', jpeg: 'image/jpeg', webp: 'image/webp' } as const

/** Whether an event is about what was asked for. A stranger's image must never reach a caller. */
function fits({ event }: Frame, { job, request }: GpuCall): boolean {
  if (event.type === 'accepted') return event.job === job && event.attempt === request.attempt
  if (event.type === 'started') return event.model === request.model && event.tier === request.tier
  if (event.type === 'succeeded') return event.images === request.count
  if (event.type !== 'image') return true
  const seed = (request.seed + event.image) % (LIMITS.seedMax + 1)
  const shape = event.width === request.width && event.height === request.height
  return (
    event.image < request.count &&
    event.seed === seed &&
    shape &&
    event.content_type === CONTENT_TYPES[request.output_format]
  )
}

/** Runs one attempt of a job and yields its events as they come. Errors: GpuUnavailable, GpuRefused, GpuOverran, StreamLost. */
export async function* generate(call: GpuCall): AsyncGenerator<Frame> {
  const { startMs, runMs, abort } = call
  const unanswered = () => abort.abort(new GpuUnavailable(`no answer within ${startMs} ms`))
  let timer = setTimeout(unanswered, startMs)
  try {
    const body = await accepted(call)
    clearTimeout(timer)
    timer = setTimeout(() => {
      abort.abort(new GpuOverran(`not finished within ${runMs} ms`))
      cancel(call)
    }, runMs)
    yield* fitting(body, call)
  } finally {
    clearTimeout(timer)
  }
}

/** The events of an accepted job but heartbeats, each checked against what was asked for. */
async function* fitting(body: ReadableStream<Uint8Array>, call: GpuCall): AsyncGenerator<Frame> {
  const images = new Set<number>()
  for await (const frame of readFrames(body, { silenceMs: call.silenceMs, signal: call.abort.signal })) {
    const { event } = frame
    if (!fits(frame, call)) throw new StreamLost(`an event of type ${event.type} is not about this job's request`)
    if (event.type === 'image') images.add(event.image)
    if (event.type === 'succeeded' && images.size !== event.images)
      throw new StreamLost('images are missing at the end')
    if (event.type !== 'heartbeat') yield frame
  }
}

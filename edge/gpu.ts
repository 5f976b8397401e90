// The one place that talks to the GPU function: signs what it asks, bounds how long that may take, and follows the reply stream.

import { GPU_TOKEN, type JobRequest, LIMITS, refusal } from '#contract'
import { jittered } from './backoff.ts'
import type { Endpoint } from './endpoints.ts'
import { type Frame, readFrames, readStart, StreamLost } from './gpu-stream.ts'
import type { GpuTimes } from './gpu-times.ts'
import { signGpuToken } from './gpu-token.ts'
import { log } from './log.ts'

/** No GPU answered before the deadline. */
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
  endpoint: Endpoint
  signingKey: string
  job: string
  request: JobRequest
  /** Ends the attempt with the reason it is aborted with: by the caller at will, here when a time has passed. */
  abort: AbortController
}

/** Routes all requests about a job to one container, where the host supports it; modal.com/docs/guide/servers. */
const AFFINITY_HEADER = 'modal-session-id'
const BACKOFF_MS = { first: 200, most: 5_000 }
const CANCEL_MS = 5_000

/**
 * Not accepted, so safe to send again: 429 queue full, 503 loading or scaled to zero, 500, 502, 504 and 520 to 530 from what stands
 * before it. Were a job accepted behind such an answer, the same id and attempt would join it.
 */
const notAccepted = (status: number) => [429, 500, 502, 503, 504].includes(status) || (status >= 520 && status <= 530)

/** Where the host takes `authorization` for itself, the edge's token has a header of its own. */
const tokenHeader = ({ headers }: Endpoint) =>
  Object.keys(headers).some((name) => name.toLowerCase() === 'authorization') ? GPU_TOKEN.header : 'authorization'

type Sent = { method: 'PUT' | 'DELETE'; body: string; signal: AbortSignal }

/** Sends a signed request about the job; null when the GPU function cannot be reached. Throws the signal's reason once it is aborted. */
async function send(call: GpuCall, { method, body, signal }: Sent): Promise<Response | null> {
  const { endpoint, signingKey, job, request } = call
  const token = await signGpuToken(signingKey, job, request.attempt, body)
  const own = { [tokenHeader(endpoint)]: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }) }
  const headers = { ...endpoint.headers, [AFFINITY_HEADER]: job, ...own }
  const url = `${endpoint.url.replace(/\/$/, '')}/jobs/${job}`
  const init = { method, headers, signal, redirect: 'manual', ...(body && { body }) } as const
  return fetch(url, init).catch((cause) => {
    signal.throwIfAborted()
    log('warn', 'the GPU function cannot be reached', { job, attempt: request.attempt, cause })
    return null
  })
}

/** How long to wait before the next try: backoff with jitter; the GPU function's own wish wins where it is longer. Milliseconds. */
export function backoffMs(tries: number, retryAfterMs: number): number {
  const backoff = jittered(Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 1.6 ** tries))
  return Math.round(Math.max(backoff, Math.min(retryAfterMs, BACKOFF_MS.most)))
}

/** Lets go of a body that nobody reads. Not awaited: cancelling a dead connection may never settle. */
function dismiss(response: Response | null): void {
  response?.body?.cancel().catch(() => {})
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

/** Sends the request, once more with a fresh token when a proxy before the GPU function has sent the first one twice. */
async function put(call: GpuCall, signal: AbortSignal): Promise<Response | null> {
  const sent: Sent = { method: 'PUT', body: JSON.stringify(call.request), signal }
  const response = await send(call, sent)
  if (response?.status !== 401) return response
  const text = await refusalText(response.clone(), call)
  if (!text.startsWith('401 token_replayed')) return response
  dismiss(response)
  return send(call, sent)
}

/** `busy`: it is ready and its queue is full. `down`: it did not answer as a GPU function does, be it one that starts. `refused`: it never will take this job. */
export type Answer =
  | { accepted: ReadableStream<Uint8Array> }
  | { retryAfterMs: number; busy: boolean; down: boolean; refused?: GpuRefused }
  | { unanswered: true }

/**
 * Asks once that a GPU takes the job, and waits `answerMs` for what it says. Throws the abort's reason, or StreamLost on anything that is
 * neither a yes, nor a no, nor a "not yet".
 */
export async function ask(call: GpuCall, answerMs: number): Promise<Answer> {
  const { abort } = call
  const patience = new AbortController()
  const timer = setTimeout(() => patience.abort(new GpuUnavailable(`no answer within ${answerMs} ms`)), answerMs)
  const signal = AbortSignal.any([abort.signal, patience.signal])
  try {
    const response = await put(call, signal)
    if (response?.status === 200 && response.body) return { accepted: response.body }
    if (response && !notAccepted(response.status)) {
      const text = await refusalText(response, call)
      if (response.status < 400 || response.status >= 500) throw new StreamLost(text)
      return { retryAfterMs: 0, busy: false, down: true, refused: new GpuRefused(text) }
    }
    dismiss(response)
    const busy = response?.status === 429
    const down = response?.status !== 503 && !busy
    return { retryAfterMs: 1000 * Number(response?.headers.get('retry-after') ?? 0) || 0, busy, down }
  } catch (thrown) {
    if (!patience.signal.aborted || abort.signal.aborted) throw thrown
    return { unanswered: true }
  } finally {
    clearTimeout(timer)
  }
}

/** Asks the GPU function to cancel the attempt at its next step; whether it knew the attempt. The stream then ends with `canceled`. */
export async function cancel(call: GpuCall): Promise<boolean> {
  const signal = AbortSignal.timeout(CANCEL_MS)
  const response = await send(call, { method: 'DELETE', body: '', signal }).catch((cause) => {
    log('warn', 'a job could not be canceled', { job: call.job, attempt: call.request.attempt, cause })
    return null
  })
  dismiss(response)
  return response?.ok ?? false
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

/**
 * The events of an accepted attempt as they arrive, without heartbeats. Throws StreamLost when the stream breaks or is about something else,
 * GpuOverran when the job has not ended `runMs` after it started; time in the GPU function's queue does not count.
 */
export async function* follow(call: GpuCall, accepted: ReadableStream<Uint8Array>): AsyncGenerator<Frame> {
  const { runMs, abort } = call
  let timer: ReturnType<typeof setTimeout> | undefined
  try {
    for await (const frame of fitting(call, accepted)) {
      if (frame.event.type === 'started')
        timer ??= setTimeout(() => abort.abort(new GpuOverran(`not finished within ${runMs} ms`)), runMs)
      yield frame
    }
  } finally {
    clearTimeout(timer)
  }
}

/** The events but heartbeats, each checked against what was asked for. */
async function* fitting(call: GpuCall, accepted: ReadableStream<Uint8Array>): AsyncGenerator<Frame> {
  const images = new Set<number>()
  for await (const frame of readFrames(accepted, { silenceMs: call.silenceMs, signal: call.abort.signal })) {
    const { event } = frame
    if (!fits(frame, call)) throw new StreamLost(`an event of type ${event.type} is not about this job's request`)
    if (event.type === 'image') images.add(event.image)
    if (event.type === 'succeeded' && images.size !== event.images)
      throw new StreamLost('images are missing at the end')
    if (event.type !== 'heartbeat') yield frame
  }
}

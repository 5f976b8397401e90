// The client of the GPU function: signs requests, enforces time limits, and reads the response stream.
import {
  CONTENT_TYPES,
  GPU_TOKEN,
  type JobInput,
  type JobRequest,
  type JobSchedule,
  LIMITS,
  refusal,
  seedOf,
} from '#contract'
import { sha256 } from '../auth/keys.ts'
import type { GpuTimes } from '../config/gpu.ts'
import { addJitter } from '../platform/backoff.ts'
import { log } from '../platform/log.ts'
import type { Endpoint } from './endpoints.ts'
import { type Frame, readFrames, readStart, StreamLost } from './stream.ts'
import { signGpuToken } from './token.ts'
import { traceparentOf } from './trace.ts'

/** No GPU answered before the deadline. */
export class GpuUnavailable extends Error {
  override name = 'GpuUnavailable' as const
}

/** The GPU function permanently refused the job. `message` is for the log. */
export class GpuRefused extends Error {
  override name = 'GpuRefused' as const
}

/** The GPU function cannot end the job by its deadline. The message is for callers. */
export class GpuTooSlow extends Error {
  override name = 'GpuTooSlow' as const
}

/** An accepted job exceeded its time limit although its stream was still active. */
export class GpuTimeLimitExceeded extends Error {
  override name = 'GpuTimeLimitExceeded' as const
}

/** The input files of a job are gone. */
export class InputsLost extends Error {
  override name = 'InputsLost' as const
}

export type GpuCall = GpuTimes & {
  /** Opens the files of `request.inputs` for one request. */
  openFiles?: () => Promise<ReadableStream<Uint8Array>[]>
  endpoint: Endpoint
  signingKey: string
  job: string
  request: JobRequest
  /** `deadline`: Unix milliseconds; null if there is none. */
  terms: { account: string; interactive: boolean; deadline: number | null }
  /** Ends the attempt with the abort reason as its error. The caller aborts it, or this client on a timeout. */
  abort: AbortController
}

/** Routes all requests about a job to one container, where the host supports it; modal.com/docs/guide/servers. */
const AFFINITY_HEADER = 'modal-session-id'
/** A hint for load balancers, which then send jobs to the containers that have their model loaded. */
const MODEL_HEADER = 'octet-model'
const nameOf = ({ model, tier }: NamedModel) => `${model}:${tier}`
const BACKOFF_MS = { first: 200, max: 5_000 }
const CANCEL_MS = 5_000

/**
 * Statuses of requests that can be sent again: 429 (full queue), 503 (loading, or scaled to zero), and a proxy's 500, 502, 504 and 520 to
 * 530. If the job was accepted all the same, a request with the same id and attempt joins it.
 */
const isNotAccepted = (status: number) => [429, 500, 502, 503, 504].includes(status) || (status >= 520 && status <= 530)

/** The header for the edge's token: a separate one if the host uses `authorization` itself. */
const chooseTokenHeader = ({ headers }: Endpoint) =>
  Object.keys(headers).some((name) => name.toLowerCase() === 'authorization') ? GPU_TOKEN.header : 'authorization'

type SignedRequest = { method: 'PUT' | 'DELETE'; body: string; signal: AbortSignal }

/** The body of a PUT with files: the request as a line, then the files. contract.ts `jobRequest` */
async function encodeBodyWithFiles({ request, openFiles }: GpuCall, json: string): Promise<ReadableStream<Uint8Array>> {
  const line = new TextEncoder().encode(`${json}\n`)
  const files = await openFiles!()
  const { readable, writable } = new FixedLengthStream(line.byteLength + bytesOf(request.inputs ?? []))
  const write = async () => {
    const writer = writable.getWriter()
    await writer.write(line)
    writer.releaseLock()
    for (const file of files) await file.pipeTo(writable, { preventClose: true })
    await writable.close()
  }
  // The request fails with the same cause.
  write().catch((cause) => writable.abort(cause).catch(() => {}))
  return readable
}

const bytesOf = (inputs: readonly JobInput[]) => inputs.reduce((sum, { bytes }) => sum + bytes, 0)

/** Sends a signed request for the job; null when the GPU function is unreachable. Throws the signal's reason if aborted, and InputsLost. */
async function send(call: GpuCall, { method, body, signal }: SignedRequest): Promise<Response | null> {
  const { endpoint, signingKey, job, request, openFiles } = call
  const token = await signGpuToken(signingKey, job, request.attempt, body)
  const hasFiles = openFiles !== undefined && method === 'PUT'
  const type = hasFiles ? 'application/x-ndjson' : 'application/json'
  const own = { [chooseTokenHeader(endpoint)]: `Bearer ${token}`, ...(body && { 'content-type': type }) }
  const traceparent = await traceparentOf(job)
  const headers = { ...endpoint.headers, [AFFINITY_HEADER]: job, [MODEL_HEADER]: nameOf(request), traceparent, ...own }
  const url = `${endpoint.url.replace(/\/$/, '')}/jobs/${job}`
  const sent = hasFiles ? await encodeBodyWithFiles(call, body) : body
  const init = { method, headers, signal, redirect: 'manual', ...(body && { body: sent }) } as const
  return fetch(url, init).catch((cause) => {
    signal.throwIfAborted()
    log('warn', 'the GPU function cannot be reached', { job, attempt: request.attempt, cause })
    return null
  })
}

const TENANT_DIGITS = 32

/** All accounts have equal shares. The tenant's name is opaque, so that the account's name is hidden from the GPU function. */
async function scheduleOf({ account, interactive, deadline }: GpuCall['terms']): Promise<JobSchedule> {
  const tenant = (await sha256(`tenant ${account}`)).slice(0, TENANT_DIGITS)
  // The GPU function refuses a job whose deadline has passed.
  const left = deadline === null ? null : Math.max(1, deadline - Date.now())
  return { tenant, weight: 1, interactive, ...(left !== null && { max_latency_ms: left }) }
}

/** Milliseconds before the next try: backoff with jitter, or the GPU function's `Retry-After` if longer. */
export function computeBackoffMs(tries: number, retryAfterMs: number): number {
  const backoff = addJitter(Math.min(BACKOFF_MS.max, BACKOFF_MS.first * 1.6 ** tries))
  return Math.round(Math.max(backoff, Math.min(retryAfterMs, BACKOFF_MS.max)))
}

/** Discards an unread body. Not awaited, because canceling the body of a dead connection may never settle. */
function dismiss(response: Response | null): void {
  response?.body?.cancel().catch(() => {})
}

/** A refusal's text for the log, at most one line of its body. */
async function readRefusalText({ body, status }: Response, { silenceMs, abort: { signal } }: GpuCall): Promise<string> {
  const text = body ? await readStart(body, LIMITS.eventLineBytes, { silenceMs, signal }) : ''
  const parsed = refusal.safeParse(parseJsonSafely(text))
  return parsed.success ? `${status} ${parsed.data.code}: ${parsed.data.detail}` : `${status}: ${text.slice(0, 200)}`
}

function parseJsonSafely(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

/** Sends the request, and again with a fresh token if a proxy in front of the GPU function duplicated the first request. */
async function put(call: GpuCall, signal: AbortSignal): Promise<Response | null> {
  const body = JSON.stringify({ ...call.request, schedule: await scheduleOf(call.terms) } satisfies JobRequest)
  const sent: SignedRequest = { method: 'PUT', body, signal }
  const response = await send(call, sent)
  if (response?.status !== 401) return response
  const text = await readRefusalText(response.clone(), call)
  if (!text.startsWith('401 token_replayed')) return response
  dismiss(response)
  return send(call, sent)
}

/** `busy`: ready, with a full queue. `down`: try the next endpoint, because no GPU function responded or it refused permanently (`refused`). */
export type Answer =
  | { accepted: ReadableStream<Uint8Array> }
  | { retryAfterMs: number; busy: boolean; down: boolean; refused?: GpuRefused | GpuTooSlow }
  | { unanswered: true }

/**
 * Offers the job to an endpoint once and waits up to `answerMs` milliseconds for the answer. Throws the abort reason, or StreamLost on a response
 * that is neither an acceptance, nor a refusal, nor a request to wait.
 */
export async function offerJob(call: GpuCall, answerMs: number): Promise<Answer> {
  const { abort } = call
  const timeout = new AbortController()
  const timer = setTimeout(() => timeout.abort(new GpuUnavailable(`no answer within ${answerMs} ms`)), answerMs)
  const signal = AbortSignal.any([abort.signal, timeout.signal])
  try {
    const response = await put(call, signal)
    if (response?.status === 200 && response.body) return { accepted: response.body }
    if (response && !isNotAccepted(response.status)) {
      const text = await readRefusalText(response, call)
      if (response.status < 400 || response.status >= 500) throw new StreamLost(text)
      return { retryAfterMs: 0, busy: false, down: true, refused: new GpuRefused(text) }
    }
    const busy = response?.status === 429
    const down = response?.status !== 503 && !busy
    const retryAfterMs = 1000 * Number(response?.headers.get('retry-after') ?? 0) || 0
    if (busy && (await readRefusalText(response, call)).startsWith('429 deadline_unmet'))
      return { retryAfterMs, busy, down, refused: new GpuTooSlow(describeTooSlow(retryAfterMs)) }
    dismiss(response)
    return { retryAfterMs, busy, down }
  } catch (thrown) {
    if (!timeout.signal.aborted || abort.signal.aborted) throw thrown
    return { unanswered: true }
  } finally {
    clearTimeout(timer)
  }
}

const describeTooSlow = (retryAfterMs: number) =>
  'The GPU cannot make the images within max_latency_ms at present. Nothing was charged; ' +
  (retryAfterMs > 0 ? `please try again in ${retryAfterMs / 1000} seconds.` : 'please allow more time or request less.')

/** Requests cancellation at the attempt's next step. Returns whether the GPU function has the attempt; its stream then ends with `canceled`. */
export async function cancel(call: GpuCall): Promise<boolean> {
  const signal = AbortSignal.timeout(CANCEL_MS)
  const response = await send(call, { method: 'DELETE', body: '', signal }).catch((cause) => {
    log('warn', 'a job could not be canceled', { job: call.job, attempt: call.request.attempt, cause })
    return null
  })
  dismiss(response)
  return response?.ok ?? false
}

export type NamedModel = Pick<JobRequest, 'model' | 'tier'>

/** Asks a GPU function that is ready to open a model ahead of its jobs. Failures are only logged. */
export async function openModel(endpoint: Endpoint, signingKey: string, { model, tier }: NamedModel): Promise<void> {
  const body = JSON.stringify({ tier })
  const token = await signGpuToken(signingKey, model, 1, body)
  const headers = {
    ...endpoint.headers,
    [chooseTokenHeader(endpoint)]: `Bearer ${token}`,
    'content-type': 'application/json',
  }
  const init = { method: 'PUT', headers, body, redirect: 'manual', signal: AbortSignal.timeout(CANCEL_MS) } as const
  const response = await fetch(`${endpoint.url.replace(/\/$/, '')}/models/${model}`, init).catch((cause: unknown) => {
    log('warn', 'a model could not be opened', { endpoint: endpoint.name, model, cause })
    return null
  })
  dismiss(response)
}

/** The adapters and ControlNets of a job and their strengths, as text. */
const additionsOf = ({ loras = [], controls = [] }: Pick<JobRequest, 'loras' | 'controls'>) =>
  JSON.stringify([loras, controls].map((chosen) => chosen.map(({ id, scale }) => [id, scale])))

/** Whether an event belongs to this request. Another request's image must never reach the caller. */
function matchesRequest({ event }: Frame, { job, request }: GpuCall): boolean {
  if (event.type === 'accepted') return event.job === job && event.attempt === request.attempt
  if (event.type === 'started') {
    const same = additionsOf(event) === additionsOf(request)
    return same && event.model === request.model && event.tier === request.tier
  }
  if (event.type === 'succeeded') return event.images === request.count
  if (event.type !== 'image') return true
  const shape = event.width === request.width && event.height === request.height
  return (
    event.image < request.count &&
    event.seed === seedOf(request.seed, event.image) &&
    shape &&
    event.content_type === CONTENT_TYPES[request.output_format]
  )
}

/**
 * The events of an accepted attempt as they arrive, without heartbeats. Throws StreamLost when the stream breaks or belongs to another
 * request, and GpuTimeLimitExceeded when the job has not ended `runMs` after its start; time in the GPU function's queue does not count.
 */
export async function* readEvents(call: GpuCall, accepted: ReadableStream<Uint8Array>): AsyncGenerator<Frame> {
  const { runMs, abort } = call
  let timer: ReturnType<typeof setTimeout> | undefined
  try {
    for await (const frame of filterMatchingFrames(call, accepted)) {
      if (frame.event.type === 'started')
        timer ??= setTimeout(() => abort.abort(new GpuTimeLimitExceeded(`not finished within ${runMs} ms`)), runMs)
      yield frame
    }
  } finally {
    clearTimeout(timer)
  }
}

/** The events except heartbeats, each checked against the request. */
async function* filterMatchingFrames(call: GpuCall, accepted: ReadableStream<Uint8Array>): AsyncGenerator<Frame> {
  const images = new Set<number>()
  for await (const frame of readFrames(accepted, { silenceMs: call.silenceMs, signal: call.abort.signal })) {
    const { event } = frame
    if (!matchesRequest(frame, call))
      throw new StreamLost(`an event of type ${event.type} is not about this job's request`)
    if (event.type === 'image') images.add(event.image)
    if (event.type === 'succeeded' && images.size !== event.images)
      throw new StreamLost('images are missing at the end')
    if (event.type !== 'heartbeat') yield frame
  }
}

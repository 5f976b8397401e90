// The one place that talks to the GPU function: signs the request, waits until a GPU accepts it, and follows the reply stream.

import { importJWK, SignJWT } from 'jose'
import { GPU_TOKEN, type JobRequest, LIMITS, refusal } from '#contract'
import { type Frame, readFrames, StreamLost } from './gpu-stream.ts'
import { log } from './log.ts'

/** No GPU accepted the job before the deadline. */
export class GpuUnavailable extends Error {
  override name = 'GpuUnavailable' as const
}

/** The GPU function refused the job for good: a retry would be refused as well. `message` is for the log. */
export class GpuRefused extends Error {
  override name = 'GpuRefused' as const
}

export type GpuCall = {
  /** Base address of the GPU function. */
  endpoint: string
  signingKey: string
  job: string
  request: JobRequest
  /** How long to wait for a GPU to accept the job, and how long the stream may be silent. */
  startMs: number
  silenceMs: number
  signal: AbortSignal
}

const utf8 = new TextEncoder()
// Not accepted, so safe to send again: 429 queue full, 503 loading or scaled to zero, 502 and 504 from a proxy before it.
const NOT_ACCEPTED: ReadonlySet<number> = new Set([429, 502, 503, 504])
const BACKOFF_MS = { first: 200, most: 5_000 }

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

async function put({ endpoint, signingKey, job, request, signal }: GpuCall): Promise<Response | null> {
  const body = JSON.stringify(request)
  const token = await signGpuToken(signingKey, job, request.attempt, body)
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
  const url = `${endpoint.replace(/\/$/, '')}/jobs/${job}`
  return fetch(url, { method: 'PUT', headers, body, signal, redirect: 'manual' }).catch((cause) => {
    signal.throwIfAborted()
    log('warn', 'the GPU function cannot be reached', { job, attempt: request.attempt, cause })
    return null
  })
}

/** Backoff with jitter; the GPU function's own Retry-After wins where it is longer. */
function delayMs(tries: number, response: Response | null): number {
  const backoff = Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 1.6 ** tries) * (0.75 + Math.random() / 2)
  const asked = Number(response?.headers.get('retry-after') ?? 0) * 1000
  return Math.max(backoff, Math.min(asked || 0, BACKOFF_MS.most))
}

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

/** What a refusal says, for the log: at most one line's worth of its body. */
async function refusalText(response: Response): Promise<string> {
  const text = (await response.text().catch(() => '')).slice(0, LIMITS.eventLineBytes)
  const parsed = refusal.safeParse(safeJson(text))
  return parsed.success
    ? `${response.status} ${parsed.data.code}: ${parsed.data.detail}`
    : `${response.status}: ${text.slice(0, 200)}`
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
    if (response && !NOT_ACCEPTED.has(response.status)) {
      const text = await refusalText(response)
      throw response.status >= 400 && response.status < 500 ? new GpuRefused(text) : new StreamLost(text)
    }
    await response?.body?.cancel()
    const wait = delayMs(tries, response)
    if (Date.now() + wait > deadline) throw new GpuUnavailable(`not accepted within ${call.startMs} ms`)
    await sleep(wait)
    call.signal.throwIfAborted()
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

/** Runs one attempt of a job and yields its events as they come. Errors: GpuUnavailable, GpuRefused, StreamLost. */
export async function* generate(call: GpuCall): AsyncGenerator<Frame> {
  const images = new Set<number>()
  for await (const frame of readFrames(await accepted(call), call.silenceMs)) {
    const { event } = frame
    if (!fits(frame, call)) throw new StreamLost(`an event of type ${event.type} is not about this job's request`)
    if (event.type === 'image') images.add(event.image)
    if (event.type === 'succeeded' && images.size !== event.images)
      throw new StreamLost('images are missing at the end')
    if (event.type !== 'heartbeat') yield frame
  }
}

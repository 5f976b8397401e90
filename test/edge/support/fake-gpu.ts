// Fake GPU function: implements the contract's stream, verifies the edge's tokens, and simulates failures.
import { env } from 'cloudflare:workers'
import { errors, importJWK, jwtVerify } from 'jose'
import { vi } from 'vitest'
import {
  countRunSteps,
  GPU_TOKEN,
  gpuTokenClaims,
  type JobEvent,
  type JobInput,
  type JobRequest,
  jobRequest,
  type Seed,
  seedOf,
} from '#contract'
import { sha256 } from '../../../edge/auth/keys.ts'

export type SeenRequest = {
  job: string
  request: JobRequest
  /** The contents of `request.inputs`. */
  files: Uint8Array[]
  signal: AbortSignal | null
  host: string
  headers: Headers
}
export type Behavior = (seen: SeenRequest) => Response | Promise<Response>
/** Behavior of a stream after its last part. */
type Ending = 'close' | 'cut' | 'silence'

const utf8 = new TextEncoder()
export const encodeLine = (event: JobEvent | Record<string, unknown>) => utf8.encode(`${JSON.stringify(event)}\n`)

/** Returns fake image bytes, distinct for each seed and long enough to span several chunks. */
export function createImageBytes(seed: Seed): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length: 5000 }, (_, i) => (Number(seed) * 31 + i * 7) % 251)
}

export const timings = { queue: 0, load: 0, encode: 0.1, denoise: 0.5, decode: 0.1, total: 0.7 }

/** Returns a response that streams `parts` in chunks of `chunkBytes`. */
export function stream(parts: readonly Uint8Array[], ending: Ending = 'close', chunkBytes = 700): Response {
  const chunks = parts.flatMap((part) =>
    Array.from({ length: Math.ceil(part.length / chunkBytes) }, (_, i) =>
      part.slice(i * chunkBytes, (i + 1) * chunkBytes),
    ),
  )
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      const chunk = chunks.shift()
      if (chunk) return controller.enqueue(chunk)
      if (ending === 'close') return controller.close()
      if (ending === 'cut') return controller.error(new Error('connection reset'))
      return new Promise(() => {})
    },
  })
  return new Response(body, { headers: { 'content-type': 'application/x-ndjson' } })
}

export const createAccepted = ({ job, request }: SeenRequest) =>
  encodeLine({ type: 'accepted', job, attempt: request.attempt, position: 0 })
export const createStarted = ({ request: { model, tier, loras, controls } }: SeenRequest) => {
  const withPackage = (choice: object) => ({ ...choice, package: 'e'.repeat(64) })
  const facts = { model, tier, package: 'a'.repeat(64), device: 'fake' }
  const additions = { loras: loras?.map(withPackage), controls: controls?.map(withPackage) }
  return encodeLine({ type: 'started', ...facts, ...additions })
}

/** Returns the two parts of image k: its line, with `change` applied, and its bytes. */
export async function createImage(
  { request }: SeenRequest,
  k: number,
  change: Record<string, unknown> = {},
): Promise<Uint8Array[]> {
  const seed = seedOf(request.seed, k)
  const data = createImageBytes(seed)
  const facts = {
    image: k,
    seed,
    width: request.width,
    height: request.height,
    content_type: `image/${request.output_format}`,
  }
  return [encodeLine({ type: 'image', ...facts, sha256: await sha256(data), bytes: data.length, ...change }), data]
}

/** Runs the job successfully, as the contract specifies. */
export const works: Behavior = async (seen) => {
  const { count, strength } = seen.request
  const each = countRunSteps(seen.request.steps, strength)
  const images = Array.from({ length: count }, async (_, k) => [
    ...createSteps(each, each, k),
    ...(await createImage(seen, k)),
  ])
  const end = encodeLine({ type: 'succeeded', images: count, timings })
  return stream([
    createAccepted(seen),
    encodeLine({ type: 'heartbeat' }),
    createStarted(seen),
    ...(await Promise.all(images)).flat(),
    end,
  ])
}

const tick = () => new Promise<void>((resolve) => setTimeout(resolve, 5))

/** Returns a stream that the test feeds while it is read. The reader polls for new parts, so that no request wakes another. */
export function createFeed(): { behavior: Behavior; send: (...parts: Uint8Array[]) => void; close: () => void } {
  const parts: Uint8Array[] = []
  let open = true
  const pull = async (controller: ReadableStreamDefaultController<Uint8Array>) => {
    while (open && parts.length === 0) await tick()
    const part = parts.shift()
    if (part) controller.enqueue(part)
    else controller.close()
  }
  return {
    behavior: () => new Response(new ReadableStream({ pull }), { headers: { 'content-type': 'application/x-ndjson' } }),
    send: (...more) => void parts.push(...more),
    close: () => {
      open = false
    },
  }
}

const finishes = async (seen: SeenRequest) => [
  ...[createStarted(seen), ...(await createImage(seen, 0))],
  encodeLine({ type: 'succeeded', images: 1, timings }),
]

/** Keeps the job in its queue, with heartbeats, until `isReleased`, and then sends `rest`, which is success by default. */
export const holdUntil =
  (isReleased: () => boolean, rest: (seen: SeenRequest) => Promise<Uint8Array[]> = finishes): Behavior =>
  async (seen) => {
    const last = await rest(seen)
    const pull = async (controller: ReadableStreamDefaultController<Uint8Array>) => {
      for (let ticks = 0; ticks < 10 && !isReleased(); ticks++) await tick()
      if (!isReleased()) return controller.enqueue(encodeLine({ type: 'heartbeat' }))
      for (const each of last) controller.enqueue(each)
      controller.close()
    }
    const start = (controller: ReadableStreamDefaultController<Uint8Array>) =>
      controller.enqueue(encodeLine({ type: 'accepted', job: seen.job, attempt: seen.request.attempt, position: 1 }))
    return new Response(new ReadableStream({ start, pull }), { headers: { 'content-type': 'application/x-ndjson' } })
  }

export const createSteps = (done: number, of: number, image = 0) =>
  Array.from({ length: done }, (_, k) => encodeLine({ type: 'step', image, step: k + 1, steps: of }))

/** Sends `done` steps, then heartbeats until the job is canceled. */
export const untilCanceled =
  (done: number): Behavior =>
  async (seen) => {
    const { behavior, send, close } = createFeed()
    send(createAccepted(seen), createStarted(seen), ...createSteps(done, seen.request.steps))
    void (async () => {
      while (!cancellations.some(({ job, attempt }) => job === seen.job && attempt === seen.request.attempt)) {
        send(encodeLine({ type: 'heartbeat' }))
        await tick()
      }
      send(encodeLine({ type: 'canceled', steps_done: done, timings }))
      close()
    })()
    return behavior(seen)
  }

export const refuses =
  (status: number, code: string, headers: Record<string, string> = {}): Behavior =>
  () =>
    Response.json(
      { type: 'about:blank', title: code, status, detail: `secret detail of ${code}`, code },
      { status, headers },
    )

export const unreachable: Behavior = () => {
  throw new TypeError('connect ECONNREFUSED')
}

/** Cancellations received for known jobs since the last `fakeGpu` call. */
export const cancellations: { job: string; attempt: number }[] = []
/** Cancellations received for unknown jobs since the last `fakeGpu` call. */
const earlyCancellations: { job: string; attempt: number }[] = []
const usedTokens = new Set<string>()

/** A rejection with a status and code of the GPU function, verified by test/edge/gpu/contract.test.ts. */
class Refused extends Error {
  readonly reply: Response
  constructor(status: number, code: string) {
    super(code)
    const body = { type: 'about:blank', title: code, status, detail: `secret detail of ${code}`, code }
    this.reply = Response.json(body, { status })
  }
}

/** Verifies the token of a request and returns its job and attempt. */
async function readAuthorized(request: Request, body: string): Promise<{ job: string; attempt: number }> {
  const given = request.headers.get(GPU_TOKEN.header) ?? request.headers.get('authorization')
  const token = given?.replace('Bearer ', '')
  if (!token) throw new Refused(401, 'token_missing')
  const key = await importJWK(JSON.parse(env.GPU_PUBLIC_KEY), GPU_TOKEN.algorithm)
  const { issuer, audience, maxAgeSeconds } = GPU_TOKEN
  const { payload } = await jwtVerify(token, key, { issuer, audience }).catch((cause) => {
    throw new Refused(401, cause instanceof errors.JWTExpired ? 'token_expired' : 'token_invalid')
  })
  if (payload.exp! - Date.now() / 1000 > maxAgeSeconds + 10) throw new Refused(401, 'token_invalid')
  const claims = gpuTokenClaims.parse(payload)
  const job = new URL(request.url).pathname.replace('/jobs/', '')
  const [signedJob, attempt] = claims.jti.split('.')
  const hash = Uint8Array.fromHex(await sha256(body)).toBase64({ alphabet: 'base64url', omitPadding: true })
  if (claims.sub !== job || signedJob !== job || claims.body !== hash) throw new Refused(403, 'token_mismatch')
  if (usedTokens.has(claims.jti)) throw new Refused(401, 'token_replayed')
  usedTokens.add(claims.jti)
  return { job, attempt: Number(attempt) }
}

function parseJob(body: string): JobRequest {
  try {
    return jobRequest.parse(JSON.parse(body))
  } catch {
    throw new Refused(400, 'invalid_request')
  }
}

/** What identifies a job's request: a retry may change the attempt and the schedule. */
const parametersOf = ({ attempt: _, schedule: __, ...request }: JobRequest) => JSON.stringify(request)

/** The files after a request, which must match their digests and end the body. */
async function split(bytes: Uint8Array<ArrayBuffer>, inputs: readonly JobInput[]): Promise<Uint8Array[]> {
  const files: Uint8Array[] = []
  let at = 0
  for (const input of inputs) {
    const file = bytes.slice(at, at + input.bytes)
    if ((await sha256(file)) !== input.sha256) throw new Refused(400, 'invalid_request')
    files.push(file)
    at += input.bytes
  }
  if (at !== bytes.length) throw new Refused(400, 'invalid_request')
  return files
}

async function see(request: Request, calls: readonly SeenRequest[]): Promise<SeenRequest> {
  const bytes = new Uint8Array(await request.arrayBuffer())
  const isFramed = request.headers.get('content-type') === 'application/x-ndjson'
  const end = isFramed ? bytes.indexOf(10) : bytes.length
  const body = new TextDecoder().decode(bytes.subarray(0, end))
  const { job, attempt } = await readAuthorized(request, body)
  const asked = parseJob(body)
  const files = await split(bytes.subarray(end + 1), asked.inputs ?? [])
  if (asked.attempt !== attempt) throw new Refused(403, 'token_mismatch')
  const known = calls.find((seen) => seen.job === job)
  if (known && parametersOf(known.request) !== parametersOf(asked)) throw new Refused(409, 'job_conflict')
  return {
    job,
    request: asked,
    files,
    signal: request.signal,
    host: new URL(request.url).host,
    headers: request.headers,
  }
}

/** Handles DELETE: cancels a known job at its next step; rejects an unknown job with 404 and cancels it when it arrives. */
async function cancel(request: Request, calls: readonly SeenRequest[]): Promise<Response> {
  const asked = await readAuthorized(request, '')
  if (!calls.some((seen) => seen.job === asked.job)) {
    earlyCancellations.push(asked)
    throw new Refused(404, 'job_not_found')
  }
  cancellations.push(asked)
  return new Response(null, { status: 204 })
}

/** Replaces `fetch` with the fake GPU: call k gets behavior k, later calls the last one. Returns the recorded requests. */
export function fakeGpu(...behaviors: [Behavior, ...Behavior[]]): SeenRequest[] {
  const calls: SeenRequest[] = []
  cancellations.length = 0
  earlyCancellations.length = 0
  usedTokens.clear()
  vi.spyOn(globalThis, 'fetch').mockImplementation(async (input, init) => {
    const request = new Request(input, init)
    if (!request.url.startsWith(env.GPU_URL) && !request.url.startsWith('https://spare.test/'))
      throw new Error(`unexpected fetch of ${request.url}`)
    try {
      if (request.method === 'DELETE') return await cancel(request, calls)
      calls.push(await see(request, calls))
    } catch (thrown) {
      if (thrown instanceof Refused) return thrown.reply
      throw thrown
    }
    const seen = calls.at(-1)!
    if (earlyCancellations.some(({ job, attempt }) => job === seen.job && attempt >= seen.request.attempt))
      return stream([createAccepted(seen), encodeLine({ type: 'canceled', steps_done: 0, timings })])
    return behaviors[Math.min(calls.length, behaviors.length) - 1]!(seen)
  })
  return calls
}

// A GPU function that implements the contract but responds at once, so that only the edge is measured.
import { createHash } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { text } from 'node:stream/consumers'
import { type JobEvent, type JobRequest, jobRequest, LIMITS, seedOf } from '../../../gpu-fn/contract.ts'
import { serveLocally } from '../../command/local-server.ts'

/** A job with this prompt starts, and ends when `release` is called. After that, no job is held. */
export const HELD_PROMPT = 'held'

/** The bytes of every image. */
export const IMAGE = Buffer.alloc(64 * 1024, 'octet')
const SHA256 = createHash('sha256').update(IMAGE).digest('hex')
const TIMINGS = { queue: 0, load: 0, encode: 0, denoise: 0, decode: 0, total: 0 }

export type GpuStub = {
  url: string
  /** Number of held jobs. */
  held: () => number
  release: () => void
  stop: () => Promise<void>
}

function finish(response: ServerResponse, { seed, width, height, count, steps }: JobRequest, reported: boolean): void {
  for (let image = 0; image < count; image++) {
    for (let step = 1; reported && step <= steps; step++)
      response.write(encodeLine({ type: 'step', image, step, steps }))
    const facts = { width, height, content_type: 'image/png', sha256: SHA256, bytes: IMAGE.length } as const
    response.write(encodeLine({ type: 'image', image, seed: seedOf(seed, image), ...facts }))
    response.write(IMAGE)
  }
  response.end(encodeLine({ type: 'succeeded', images: count, timings: TIMINGS }))
}

const encodeLine = (event: JobEvent) => `${JSON.stringify(event)}\n`

/** Starts the stub on a free loopback port. With `steps` it reports each step, as a GPU function does. */
export async function startGpuStub({ steps = false } = {}): Promise<GpuStub> {
  const waiting = new Map<ServerResponse, JobRequest>()
  let holding = true
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    if (request.method !== 'PUT') return response.writeHead(204).end()
    const job = request.url!.slice('/jobs/'.length)
    const parsed = jobRequest.parse(JSON.parse(await text(request)))
    response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    response.write(encodeLine({ type: 'accepted', job, attempt: parsed.attempt, position: 0 }))
    response.write(
      encodeLine({ type: 'started', model: parsed.model, tier: parsed.tier, package: SHA256, device: 'stub' }),
    )
    if (!holding || parsed.prompt !== HELD_PROMPT) return finish(response, parsed, steps)
    waiting.set(response, parsed)
    response.once('close', () => waiting.delete(response))
  }
  const { url, stop } = await serveLocally(answer)
  const heartbeat = setInterval(() => {
    for (const response of waiting.keys()) response.write(encodeLine({ type: 'heartbeat' }))
  }, LIMITS.heartbeatMs - 1000)
  return {
    url,
    held: () => waiting.size,
    release: () => {
      holding = false
      for (const [response, parsed] of waiting) finish(response, parsed, steps)
      waiting.clear()
    },
    stop: async () => {
      clearInterval(heartbeat)
      await stop()
    },
  }
}

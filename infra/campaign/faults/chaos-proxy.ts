// An HTTP proxy that simulates a faulty network between the worker and the GPU functions: it refuses, drops, duplicates, truncates and
// delays requests, and routes them round-robin, regardless of which GPU function has the job.
import { once } from 'node:events'
import { type IncomingMessage, request as open, type ServerResponse } from 'node:http'
import { buffer } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { serveLocally } from '../../command/local-server.ts'
import type { Random } from '../../command/random.ts'

/** Relative frequencies. */
const FAULTS = {
  none: 60,
  /** A 503 response: the job is not accepted. */
  unavailable: 5,
  busy: 5,
  /** The connection breaks before the GPU function receives the job. */
  reset: 4,
  /** The GPU function accepts the job, but the response is 502. */
  'bad gateway': 4,
  /** The same request reaches the same GPU function twice concurrently. */
  twice: 6,
  slow: 6,
  /** The stream is truncated, stalled or corrupted after some of its bytes. */
  cut: 5,
  silent: 2,
  garbled: 3,
} as const
export type Fault = keyof typeof FAULTS

/** Latest position of a fault in a stream, in bytes: most streams have about 25,000, mainly of an image. */
const REACH = 26_000
const REFUSALS: Partial<Record<Fault, [number, Record<string, string>]>> = {
  unavailable: [503, { 'retry-after': '0' }],
  busy: [429, {}],
}

type ForwardedRequest = { path: string; method: string; headers: IncomingMessage['headers']; body: Buffer }

async function forward(port: number, { path, method, headers, body }: ForwardedRequest): Promise<IncomingMessage> {
  const sent = open({ host: '127.0.0.1', port, path, method, headers, agent: false }).end(body)
  const [answer] = (await once(sent, 'response')) as [IncomingMessage]
  return answer
}

/** Forwards a stream, with the fault after `at` bytes. */
async function relay(answer: IncomingMessage, response: ServerResponse, fault: Fault, at: number): Promise<void> {
  response.writeHead(answer.statusCode!, answer.headers)
  let through = 0
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    const here = at - through
    through += chunk.length
    const reached = here >= 0 && here < chunk.length
    if (fault === 'slow') await sleep(20)
    if (reached && fault === 'garbled') chunk[here]! ^= 1
    if (reached && (fault === 'cut' || fault === 'silent')) {
      response.write(chunk.subarray(0, here))
      answer.destroy()
      if (fault === 'cut') response.destroy()
      return
    }
    response.write(chunk)
  }
  response.end()
}

/** Probability that a DELETE is lost in transit. */
const LOST_DELETES = 0.2

/** Starts the proxy in front of the GPU functions at `ports`, round-robin. `calm` stops the faults; `faults` counts them. */
export async function startChaosProxy(ports: readonly number[], random: Random) {
  const faults: Partial<Record<Fault, number>> = {}
  let calm = false
  let turn = 0
  const drawFault = (method: string | undefined): Fault => {
    if (calm) return 'none'
    if (method === 'PUT') return random.pick(FAULTS)
    return method === 'DELETE' && random.chance(LOST_DELETES) ? 'reset' : 'none'
  }
  const handle = async (request: IncomingMessage, response: ServerResponse) => {
    const port = ports[turn++ % ports.length]!
    const fault = drawFault(request.method)
    const at = random.between(0, REACH)
    faults[fault] = (faults[fault] ?? 0) + 1
    const sent = { path: request.url!, method: request.method!, headers: request.headers, body: await buffer(request) }
    const refusal = REFUSALS[fault]
    if (refusal) return response.writeHead(...refusal).end()
    if (fault === 'reset') return response.destroy()
    const [answer, second] = await Promise.all([
      forward(port, sent),
      // The response to the duplicate is discarded.
      fault === 'twice' ? forward(port, sent) : null,
    ])
    second?.resume().on('error', () => {})
    if (fault === 'bad gateway') {
      answer.destroy()
      return response.writeHead(502).end()
    }
    response.on('close', () => {
      answer.destroy()
      second?.destroy()
    })
    await relay(answer, response, fault, at)
  }
  // If either side is killed, the connection to the other side breaks too.
  const { url, stop } = await serveLocally((request, response) => {
    handle(request, response).catch(() => response.destroy())
  })
  return {
    ...{ url, stop, faults },
    calm: () => {
      calm = true
    },
  }
}

// Load over persistent connections, with latencies.
import { once } from 'node:events'
import { Agent, type IncomingMessage, request } from 'node:http'
import { createHistogram } from 'node:perf_hooks'
import { text } from 'node:stream/consumers'

/** Latencies in milliseconds, and requests per second. */
export type Load = { p50: number; p99: number; perSecond: number }
export type Call = { method?: string; headers?: Record<string, string>; body?: string }
export type Client = {
  /** Reads the whole response. */
  send: (path: string, call?: Call) => Promise<string>
  /** Reads only the first bytes of the response. */
  begin: (path: string, call?: Call) => Promise<string>
  close: () => void
}

async function readBeginning(response: IncomingMessage): Promise<string> {
  const [chunk] = (await once(response, 'data')) as [Buffer]
  response.destroy()
  return chunk.toString()
}

/** A client of one server. Throws for a response other than 2xx, whose latency would be meaningless. */
export function newClient(origin: string): Client {
  const agent = new Agent({ keepAlive: true })
  const exchange =
    (read: (response: IncomingMessage) => Promise<string>) =>
    async (path: string, { method = 'GET', headers = {}, body }: Call = {}) => {
      const sent = request(new URL(path, origin), { agent, method, headers }).end(body)
      const [response] = (await once(sent, 'response')) as [IncomingMessage]
      const reply = await read(response)
      const { statusCode = 0 } = response
      if (statusCode >= 200 && statusCode < 300) return reply
      throw new Error(`${method} ${path} returned ${statusCode}: ${reply.slice(0, 300)}`)
    }
  return { send: exchange(text), begin: exchange(readBeginning), close: () => agent.destroy() }
}

/** Times `count` runs of `action`, at most `connections` at once. `rest` runs after each, untimed. */
export async function measure(
  action: () => Promise<unknown>,
  count: number,
  connections = 1,
  rest: () => Promise<unknown> = async () => {},
): Promise<Load> {
  const histogram = createHistogram()
  let left = count
  const runWorker = async () => {
    while (left-- > 0) {
      const sent = performance.now()
      await action()
      histogram.record(Math.max(1, Math.round((performance.now() - sent) * 1e6)))
      await rest()
    }
  }
  await Promise.all(Array.from({ length: connections }, runWorker))
  const seconds = (histogram.mean * count) / connections / 1e9
  return { p50: histogram.percentile(50) / 1e6, p99: histogram.percentile(99) / 1e6, perSecond: count / seconds }
}

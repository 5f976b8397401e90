// API clients: a persistent one, which retries until a definitive response, and a one-shot one, which treats every fault as final.
import { setTimeout as sleep } from 'node:timers/promises'
import type { JobState, JobView } from '../../edge/dialects/definition/public-job.ts'
import { isFinal } from '../../edge/jobs/record.ts'

/** The fields of the API's job resource that the campaign reads. Its images do not expire. */
export type Job = Pick<JobView, 'id' | 'state' | 'steps' | 'error' | 'price_microdollars'> & {
  images: (Pick<JobView['images'][number], 'seed' | 'sha256'> & { url: string })[]
}

export type Answer = { status: number; text: string }
/** The default method is GET without a body and POST with a body. */
export type SendOptions = {
  method?: string
  body?: object | string
  headers?: Record<string, string>
  signal?: AbortSignal
}
/** A failure that a deploy alone must never cause: a 5xx, a broken connection, or a truncated stream. */
export class Fault extends Error {
  override name = 'Fault' as const
}

export type Client = {
  /** Sends once. Throws if the connection breaks. */
  send: (url: string, key: string, sending?: SendOptions) => Promise<Answer>
  /** Sends with the client's retries. */
  sendReliably: (url: string, key: string, sending?: SendOptions) => Promise<Answer>
  /** Reads a job's event stream to its end. Returns the ids of its events. */
  follow: (url: string, key: string) => Promise<number[]>
}

const PAUSE_MS = 100
const TRANSIENT = /"code":"(internal|idempotency_in_flight|gpu_unavailable|rate_limited|concurrency_limited)"/

const methodOf = ({ method, body }: SendOptions) => method ?? (body === undefined ? 'GET' : 'POST')

export async function send(url: string, key: string, sending: SendOptions = {}): Promise<Answer> {
  const { body, headers, signal = null } = sending
  const response = await fetch(url, {
    method: methodOf(sending),
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...headers },
    body: typeof body === 'object' ? JSON.stringify(body) : (body ?? null),
    signal,
  })
  return { status: response.status, text: await response.text() }
}

/** Reads the complete events of one connection to an event stream until it ends or breaks. */
async function readEvents(url: string, key: string, after: number): Promise<{ ids: number[]; ended: boolean }> {
  let text = ''
  try {
    const headers = { authorization: `Bearer ${key}`, 'last-event-id': String(after) }
    const { body } = await fetch(url, { headers })
    for await (const chunk of body?.pipeThrough(new TextDecoderStream()) ?? []) text += chunk
  } catch {
    // The events before the break are complete.
  }
  const events = text.split('\n\n').slice(0, -1)
  const ids = events.flatMap((event) => /^id: (\d+)$/m.exec(event)?.[1] ?? []).map(Number)
  const last = /^event: (\w+)$/m.exec(events.at(-1) ?? '')?.[1]
  return { ids, ended: isFinal({ state: last as JobState }) }
}

/** Retries on broken connections and transient responses, and resumes broken event streams. */
export const persistent: Client = {
  send,
  async sendReliably(url, key, sending) {
    for (;;) {
      const answer = await send(url, key, sending).catch(() => null)
      if (answer && (answer.status < 400 || !TRANSIENT.test(answer.text))) return answer
      await sleep(PAUSE_MS)
    }
  },
  async follow(url, key) {
    const all: number[] = []
    for (;;) {
      const { ids, ended } = await readEvents(url, key, all.at(-1) ?? 0)
      all.push(...ids)
      if (ended) return all
      await sleep(PAUSE_MS)
    }
  },
}

async function sendOrFault(url: string, key: string, sending: SendOptions = {}): Promise<Answer> {
  const request = `${methodOf(sending)} ${new URL(url).pathname}`
  const { status, text } = await send(url, key, sending).catch((error: Error) => {
    if (sending.signal?.aborted) throw error
    throw new Fault(`${request} failed: ${error.cause ?? error}`)
  })
  if (status >= 500 || TRANSIENT.test(text)) throw new Fault(`${request} returned ${status}: ${text.slice(0, 300)}`)
  return { status, text }
}

/** Sends each request and opens each stream only once. Throws Fault for failures that a deploy must not cause. */
export const oneShot: Client = {
  send: sendOrFault,
  sendReliably: sendOrFault,
  async follow(url, key) {
    const { ids, ended } = await readEvents(url, key, 0)
    if (!ended) throw new Fault(`${new URL(url).pathname} ended before the job, after ${ids.length} events`)
    return ids
  },
}

/** Returns the body of a successful response. Throws for any other response. */
export async function callWorker<T>(client: Client, url: string, key: string, sending?: SendOptions): Promise<T> {
  const { status, text } = await client.sendReliably(url, key, sending)
  if (status >= 200 && status < 300) return JSON.parse(text) as T
  throw new Error(`${methodOf(sending ?? {})} ${url} returned ${status}: ${text}`)
}

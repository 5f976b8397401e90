// API clients: a persistent one, which retries until a definitive response, and a one-shot one, which treats every fault as final.
import { setTimeout as sleep } from 'node:timers/promises'

import type { JobView } from '../../edge/dialects/public-job.ts'

/** The fields of the API's job resource that the campaign reads. Its images do not expire. */
export type Job = Pick<JobView, 'id' | 'state' | 'steps' | 'error' | 'price_microdollars'> & {
  images: (Pick<JobView['images'][number], 'seed' | 'sha256'> & { url: string })[]
}

export type Answer = { status: number; text: string }
export type Sending = {
  method?: string
  body?: object
  idempotencyKey?: string
  prefer?: string
  signal?: AbortSignal
}
/** A failure that a deploy alone must never cause: a 5xx, a broken connection, or a truncated stream. */
export class Fault extends Error {
  override name = 'Fault' as const
}

export type Client = {
  /** Sends once. Throws if the connection breaks. */
  send: (url: string, key: string, sending?: Sending) => Promise<Answer>
  /** Sends with the client's retries. */
  insist: (url: string, key: string, sending?: Sending) => Promise<Answer>
  /** Reads a job's event stream to its end. Returns the ids of its events. */
  follow: (url: string, key: string) => Promise<number[]>
}

const PAUSE_MS = 100
const TRANSIENT = /"code":"(internal|idempotency_in_flight|gpu_unavailable|rate_limited|concurrency_limited)"/
const TERMINAL = /^event: (succeeded|failed|canceled)$/m

export async function send(url: string, key: string, sending: Sending = {}): Promise<Answer> {
  const { method = 'GET', body, idempotencyKey, prefer, signal } = sending
  const headers = {
    authorization: `Bearer ${key}`,
    'content-type': 'application/json',
    ...(idempotencyKey && { 'idempotency-key': idempotencyKey }),
    ...(prefer && { prefer }),
  }
  const response = await fetch(url, { method, headers, body: JSON.stringify(body) ?? null, signal: signal ?? null })
  return { status: response.status, text: await response.text() }
}

/** Reads the complete events of one connection to an event stream until it ends or breaks. */
async function readEvents(url: string, key: string, after: number): Promise<string[]> {
  let text = ''
  try {
    const headers = { authorization: `Bearer ${key}`, 'last-event-id': String(after) }
    const decoder = new TextDecoder()
    for await (const chunk of (await fetch(url, { headers })).body ?? [])
      text += decoder.decode(chunk, { stream: true })
  } catch {
    // Events received before the break count.
  }
  return text.split('\n\n').slice(0, -1)
}

const idsOf = (events: readonly string[]) =>
  events.flatMap((event) => {
    const id = /^id: (\d+)$/m.exec(event)?.[1]
    return id === undefined ? [] : [Number(id)]
  })
const ended = (events: readonly string[]) => TERMINAL.test(events.at(-1) ?? '')

/** Retries on broken connections and transient responses, and resumes broken event streams. */
export const persistent: Client = {
  send,
  async insist(url, key, sending) {
    for (;;) {
      const answer = await send(url, key, sending).catch(() => null)
      if (answer && (answer.status < 400 || !TRANSIENT.test(answer.text))) return answer
      await sleep(PAUSE_MS)
    }
  },
  async follow(url, key) {
    const ids: number[] = []
    for (;;) {
      const events = await readEvents(url, key, ids.at(-1) ?? 0)
      ids.push(...idsOf(events))
      if (ended(events)) return ids
      await sleep(PAUSE_MS)
    }
  },
}

async function sendOrFault(url: string, key: string, sending: Sending = {}): Promise<Answer> {
  const { pathname } = new URL(url)
  const what = `${sending.method ?? 'GET'} ${pathname}`
  const answer = await send(url, key, sending).catch((error: Error) => {
    if (sending.signal?.aborted) throw error
    throw new Fault(`${what} broke off: ${error.cause ?? error}`)
  })
  if (answer.status >= 500 || TRANSIENT.test(answer.text))
    throw new Fault(`${what} was answered ${answer.status}: ${answer.text.slice(0, 300)}`)
  return answer
}

/** Sends each request and opens each stream only once. Throws Fault for failures that a deploy must not cause. */
export const oneShot: Client = {
  send: sendOrFault,
  insist: sendOrFault,
  async follow(url, key) {
    const events = await readEvents(url, key, 0)
    if (!ended(events)) throw new Fault(`${new URL(url).pathname} ended before the job, after ${events.length} events`)
    return idsOf(events)
  },
}

/** Returns the body of a successful response. Throws for any other response. */
export async function ask<T>(client: Client, url: string, key: string, sending?: Sending): Promise<T> {
  const { status, text } = await client.insist(url, key, sending)
  if (status >= 200 && status < 300) return JSON.parse(text) as T
  throw new Error(`${sending?.method ?? 'GET'} ${url} answers ${status}: ${text}`)
}

// A client that means it: where the connection breaks or the worker is gone, it asks again.
import { setTimeout as sleep } from 'node:timers/promises'

export type Answer = { status: number; text: string }
export type Sending = { method?: string; body?: object; idempotencyKey?: string; signal?: AbortSignal }
/** A job as the API tells it, as far as the campaign looks at it. */
export type Job = {
  id: string
  state: string
  price_microdollars: number
  images: { url: string; seed: number; sha256: string }[]
}

const PAUSE_MS = 100
const TRANSIENT = /"code":"(internal|idempotency_in_flight|gpu_unavailable|rate_limited|concurrency_limited)"/

/** Sends once. Throws when the connection breaks. */
export async function send(url: string, key: string, sending: Sending = {}): Promise<Answer> {
  const { method = 'GET', body, idempotencyKey, signal } = sending
  const headers = {
    authorization: `Bearer ${key}`,
    'content-type': 'application/json',
    ...(idempotencyKey && { 'idempotency-key': idempotencyKey }),
  }
  const response = await fetch(url, { method, headers, body: JSON.stringify(body) ?? null, signal: signal ?? null })
  return { status: response.status, text: await response.text() }
}

/** Sends until there is an answer that stands. */
export async function insist(url: string, key: string, sending?: Sending): Promise<Answer> {
  for (;;) {
    const answer = await send(url, key, sending).catch(() => null)
    if (answer && (answer.status < 400 || !TRANSIENT.test(answer.text))) return answer
    await sleep(PAUSE_MS)
  }
}

/** The same for an answer that must be a success. */
export async function ask<T>(url: string, key: string, sending?: Sending): Promise<T> {
  const { status, text } = await insist(url, key, sending)
  if (status >= 200 && status < 300) return JSON.parse(text) as T
  throw new Error(`${sending?.method ?? 'GET'} ${url} answers ${status}: ${text}`)
}

/** One connection to an event stream, as far as it holds: its whole events. */
async function listen(url: string, key: string, after: number): Promise<string[]> {
  let text = ''
  try {
    const headers = { authorization: `Bearer ${key}`, 'last-event-id': String(after) }
    const decoder = new TextDecoder()
    for await (const chunk of (await fetch(url, { headers })).body ?? [])
      text += decoder.decode(chunk, { stream: true })
  } catch {
    // What came before the break counts.
  }
  return text.split('\n\n').slice(0, -1)
}

/** Reads a job's events to the end over as many connections as it takes, each from where the one before broke off. Returns their ids. */
export async function follow(url: string, key: string): Promise<number[]> {
  const ids: number[] = []
  for (;;) {
    const events = await listen(url, key, ids.at(-1) ?? 0)
    ids.push(...events.flatMap((event) => Number(/^id: (\d+)$/m.exec(event)?.[1] ?? [])))
    if (/^event: (succeeded|failed|canceled)$/m.test(events.at(-1) ?? '')) return ids
    await sleep(PAUSE_MS)
  }
}

// Evaluation of responses, and the time of the next attempt. The delays are configured (WEBHOOK_RETRY_SECONDS). Pure.

/** The outcome of an attempt: the receiver's status, or the reason for its absence. `internal` is a fault on our side. */
export type Answer =
  | { status: number; retryAfter: string | null }
  | { error: 'timeout' | 'unreachable' | 'blocked' | 'internal' }
/** `pause`: the backoff in seconds requested by the receiver. */
type Evaluation = { kind: 'delivered' } | { kind: 'gone' } | { kind: 'blocked' } | { kind: 'failed'; pause: number }
const JITTER = 0.1
const BUSY_SECONDS = 60
const MAX_PAUSE_SECONDS = 24 * 3600

/** Returns the delay in seconds before the next attempt after `failures` failures, with ±10% jitter, or null after the last attempt. */
export function waitAfter(failures: number, schedule: readonly number[], random = Math.random()): number | null {
  const wait = schedule[failures - 1]
  return wait === undefined ? null : wait * (1 + JITTER * (2 * random - 1))
}

/** Parses a `Retry-After` header (seconds or an HTTP date) to seconds. Returns 0 if it is missing or malformed. */
export function retryAfterSeconds(header: string | null, now: number): number {
  const text = header?.trim() ?? ''
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - now) / 1000
  return Number.isNaN(seconds) ? 0 : Math.min(Math.max(seconds, 0), MAX_PAUSE_SECONDS)
}

/** Only 2xx is success; 410 ends the delivery; 429, 502 and 504 cause a pause even without `Retry-After`. */
export function evaluate(answer: Answer, now: number): Evaluation {
  if ('error' in answer) return answer.error === 'blocked' ? { kind: 'blocked' } : { kind: 'failed', pause: 0 }
  const { status, retryAfter } = answer
  if (status >= 200 && status < 300) return { kind: 'delivered' }
  if (status === 410) return { kind: 'gone' }
  const busy = [429, 502, 504].includes(status) ? BUSY_SECONDS : 0
  return { kind: 'failed', pause: retryAfter === null ? busy : retryAfterSeconds(retryAfter, now) || busy }
}

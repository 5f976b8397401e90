// What the answer to a delivery means, and when the next attempt is due. Pure.

/** How an attempt went: the receiver's status, or why there is none. */
export type Answer = { status: number; retryAfter: string | null } | { error: 'timeout' | 'unreachable' | 'blocked' }
/** `pause`: seconds in which this receiver asked for quiet. */
export type Verdict = { kind: 'delivered' } | { kind: 'gone' } | { kind: 'blocked' } | { kind: 'failed'; pause: number }

const JITTER = 0.1
const BUSY_SECONDS = 60
const LONGEST_PAUSE_SECONDS = 24 * 3600

/** The waits before attempts 2, 3, …, in seconds, from the variable WEBHOOK_RETRY_SECONDS. Throws when one is no number. */
export function readSchedule(text: string): number[] {
  const waits = text.split(',').map(Number)
  if (waits.some((wait) => !(wait >= 0))) throw new Error('WEBHOOK_RETRY_SECONDS must be seconds, separated by commas')
  return waits
}

/** Seconds until the attempt after `failures` failed ones, up to a tenth longer or shorter; null when that was the last. */
export function waitAfter(failures: number, schedule: readonly number[], random = Math.random()): number | null {
  const wait = schedule[failures - 1]
  return wait === undefined ? null : wait * (1 + JITTER * (2 * random - 1))
}

/** Seconds of a `Retry-After` header, a number or an HTTP date; 0 when there is none that can be read. */
export function retryAfterSeconds(header: string | null, now: number): number {
  const text = header?.trim() ?? ''
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - now) / 1000
  return Number.isNaN(seconds) ? 0 : Math.min(Math.max(seconds, 0), LONGEST_PAUSE_SECONDS)
}

/** Only 2xx is success; 410 means never again; 429, 502 and 504 ask for a pause even without `Retry-After`. */
export function judge(answer: Answer, now: number): Verdict {
  if ('error' in answer) return answer.error === 'blocked' ? { kind: 'blocked' } : { kind: 'failed', pause: 0 }
  const { status, retryAfter } = answer
  if (status >= 200 && status < 300) return { kind: 'delivered' }
  if (status === 410) return { kind: 'gone' }
  const busy = [429, 502, 504].includes(status) ? BUSY_SECONDS : 0
  return { kind: 'failed', pause: retryAfter === null ? busy : retryAfterSeconds(retryAfter, now) || busy }
}

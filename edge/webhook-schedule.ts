// The settings of deliveries, what the answer to an attempt means, and when the next attempt is due. Pure.
import type { Env } from './env.ts'

/** How an attempt ended: the receiver's status, or why there is none. `internal` is a fault of ours. */
export type Answer =
  | { status: number; retryAfter: string | null }
  | { error: 'timeout' | 'unreachable' | 'blocked' | 'internal' }
/** `pause`: seconds for which this receiver asked to receive nothing. */
export type Verdict = { kind: 'delivered' } | { kind: 'gone' } | { kind: 'blocked' } | { kind: 'failed'; pause: number }
export type Settings = {
  /** The waits before attempts 2, 3, …, in seconds. */
  schedule: readonly number[]
  timeoutMs: number
  /** How long a breaker opens the first time. */
  breakerMs: number
  replaysPerMinute: number
  /** A pending delivery is given up after this time, even if an open breaker kept its attempts from being made. */
  lifetimeMs: number
}
type Vars = Pick<
  Env,
  'WEBHOOK_RETRY_SECONDS' | 'WEBHOOK_TIMEOUT_SECONDS' | 'WEBHOOK_BREAKER_SECONDS' | 'WEBHOOK_REPLAYS_PER_MINUTE'
>

const JITTER = 0.1
const BUSY_SECONDS = 60
const LONGEST_PAUSE_SECONDS = 24 * 3600
const SHORTEST_LIFETIME_SECONDS = 4 * 24 * 3600

function readNumber(vars: Vars, name: keyof Vars, least: number): number {
  const value = vars[name].trim() === '' ? Number.NaN : Number(vars[name])
  if (value >= least && value < Number.POSITIVE_INFINITY) return value
  throw new Error(`${name} is ${JSON.stringify(vars[name])}; it must be a number from ${least} on`)
}

/** Reads WEBHOOK_RETRY_SECONDS. Throws when a wait is no number. */
export function readSchedule(text: string): number[] {
  const waits = text.split(',').map(Number)
  if (waits.some((wait) => !(wait >= 0))) throw new Error('WEBHOOK_RETRY_SECONDS must be seconds, separated by commas')
  return waits
}

/** Reads the variables of deliveries. Throws when one is malformed, with its name. */
export function readSettings(vars: Vars): Settings {
  const schedule = readSchedule(vars.WEBHOOK_RETRY_SECONDS)
  const total = schedule.reduce((sum, wait) => sum + wait, 0)
  return {
    schedule,
    timeoutMs: readNumber(vars, 'WEBHOOK_TIMEOUT_SECONDS', 0.001) * 1000,
    breakerMs: readNumber(vars, 'WEBHOOK_BREAKER_SECONDS', 0) * 1000,
    replaysPerMinute: readNumber(vars, 'WEBHOOK_REPLAYS_PER_MINUTE', 1),
    lifetimeMs: Math.max(SHORTEST_LIFETIME_SECONDS, 1.25 * total) * 1000,
  }
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

/** Only 2xx is success; 410 ends the delivery; 429, 502 and 504 ask for a pause even without `Retry-After`. */
export function judge(answer: Answer, now: number): Verdict {
  if ('error' in answer) return answer.error === 'blocked' ? { kind: 'blocked' } : { kind: 'failed', pause: 0 }
  const { status, retryAfter } = answer
  if (status >= 200 && status < 300) return { kind: 'delivered' }
  if (status === 410) return { kind: 'gone' }
  const busy = [429, 502, 504].includes(status) ? BUSY_SECONDS : 0
  return { kind: 'failed', pause: retryAfter === null ? busy : retryAfterSeconds(retryAfter, now) || busy }
}

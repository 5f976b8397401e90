// Delivery settings, evaluation of responses, and the retry schedule. Pure.
import { log } from '../platform/log.ts'

/** The outcome of an attempt: the receiver's status, or the reason for its absence. `internal` is a fault on our side. */
export type Answer =
  | { status: number; retryAfter: string | null }
  | { error: 'timeout' | 'unreachable' | 'blocked' | 'internal' }
/** `pause`: the backoff in seconds requested by the receiver. */
export type Verdict = { kind: 'delivered' } | { kind: 'gone' } | { kind: 'blocked' } | { kind: 'failed'; pause: number }
export type Settings = {
  /** The delays before attempts 2, 3, …, in seconds. */
  schedule: readonly number[]
  timeoutMs: number
  /** How long a circuit breaker stays open after its first opening. */
  breakerMs: number
  replaysPerMinute: number
  /** A pending delivery is given up after this time, even if an open circuit breaker prevented its attempts. */
  lifetimeMs: number
}
type Vars = Pick<
  Env,
  'WEBHOOK_RETRY_SECONDS' | 'WEBHOOK_TIMEOUT_SECONDS' | 'WEBHOOK_BREAKER_SECONDS' | 'WEBHOOK_REPLAYS_PER_MINUTE'
>

const JITTER = 0.1
const BUSY_SECONDS = 60
const MAX_PAUSE_SECONDS = 24 * 3600
const MIN_LIFETIME_SECONDS = 4 * 24 * 3600

function readNumber(vars: Vars, name: keyof Vars, min: number): number {
  const value = vars[name].trim() === '' ? Number.NaN : Number(vars[name])
  if (value >= min && value < Number.POSITIVE_INFINITY) return value
  throw new Error(`${name} is ${JSON.stringify(vars[name])}; it must be a number of at least ${min}`)
}

/** Parses WEBHOOK_RETRY_SECONDS. Throws if it is malformed. */
export function readSchedule(text: string): number[] {
  const waits = text.split(',').map(Number)
  if (waits.some((wait) => !(wait >= 0))) throw new Error('WEBHOOK_RETRY_SECONDS must be seconds, separated by commas')
  return waits
}

/** Parses the WEBHOOK_* variables. Throws an error with the name of a malformed variable. */
export function readSettings(vars: Vars): Settings {
  const schedule = readSchedule(vars.WEBHOOK_RETRY_SECONDS)
  const total = schedule.reduce((sum, wait) => sum + wait, 0)
  return {
    schedule,
    timeoutMs: readNumber(vars, 'WEBHOOK_TIMEOUT_SECONDS', 0.001) * 1000,
    breakerMs: readNumber(vars, 'WEBHOOK_BREAKER_SECONDS', 0) * 1000,
    replaysPerMinute: readNumber(vars, 'WEBHOOK_REPLAYS_PER_MINUTE', 1),
    lifetimeMs: Math.max(MIN_LIFETIME_SECONDS, 1.25 * total) * 1000,
  }
}

const DEFAULTS: Vars = {
  WEBHOOK_RETRY_SECONDS: '5,300,1800,7200,18000,36000,50400,72000,86400',
  WEBHOOK_TIMEOUT_SECONDS: '15',
  WEBHOOK_BREAKER_SECONDS: '30',
  WEBHOOK_REPLAYS_PER_MINUTE: '100',
}

/**
 * Parses the WEBHOOK_* variables. A malformed variable is logged and all defaults apply: an object whose constructor throws misses its
 * alarms, and pending deliveries are never attempted.
 */
export function readSettingsOrDefaults(vars: Vars): Settings {
  try {
    return readSettings(vars)
  } catch (cause) {
    log('error', 'a WEBHOOK_* variable is malformed; the defaults apply', { cause })
    return readSettings(DEFAULTS)
  }
}

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
export function judge(answer: Answer, now: number): Verdict {
  if ('error' in answer) return answer.error === 'blocked' ? { kind: 'blocked' } : { kind: 'failed', pause: 0 }
  const { status, retryAfter } = answer
  if (status >= 200 && status < 300) return { kind: 'delivered' }
  if (status === 410) return { kind: 'gone' }
  const busy = [429, 502, 504].includes(status) ? BUSY_SECONDS : 0
  return { kind: 'failed', pause: retryAfter === null ? busy : retryAfterSeconds(retryAfter, now) || busy }
}

// Meters: the usage of one holder of limits. Pure: the account stores one row for itself, one per key lineage, and one per browser token in
// use, and updates them in the same transaction as its ledger.

import type { Limits } from '../config/limits.ts'
import type { Holder, RateState } from './rate-limit-headers.ts'

/**
 * Amounts are micro-dollars, times Unix milliseconds. `tokens` is the bucket level at `refilled`, the last request; `day` is the UTC date of
 * the last capture.
 */
export type Meter = {
  id: string
  tokens: number | null
  refilled: number
  open: number
  reserved: number
  captured: number
  day: string
  day_captured: number
  month_captured: number
}
export type MeteredHolder = { holder: Holder; limits: Limits; meter: Meter }

export type Refusal =
  | { kind: 'limited'; by: 'rate' | 'concurrency'; holder: Holder; limit: number; retryAfterSeconds: number }
  /** A limit of zero: a retry cannot succeed. */
  | { kind: 'barred'; by: 'rate' | 'concurrency'; holder: Holder }
  | {
      kind: 'over_budget'
      by: 'balance' | 'daily' | 'monthly' | 'total'
      holder: Holder
      available: number
      price: number
    }

const MINUTE_MS = 60_000
/** The end of a job cannot be predicted, and a retry is cheap. */
const CONCURRENCY_RETRY_SECONDS = 2

export const newMeter = (id: string): Meter => ({
  ...{ id, tokens: null, refilled: 0, open: 0, reserved: 0, captured: 0 },
  ...{ day: '', day_captured: 0, month_captured: 0 },
})

export const utcDayOf = (now: number) => new Date(now).toISOString().slice(0, 10)

/**
 * Returns the current bucket level. It refills at `limit` requests per minute, up to `limit`. Null `tokens` denote an unused bucket, which
 * is full.
 */
const computeBucketLevel = ({ tokens, refilled }: Meter, limit: number, now: number) =>
  tokens === null ? limit : Math.min(limit, tokens + (Math.max(0, now - refilled) / MINUTE_MS) * limit)

/** Returns the meter's day at `now`, and the amounts captured on that day and in its month. The day never moves backward. */
function currentPeriodsOf({ day, day_captured, month_captured }: Meter, now: number) {
  const clock = utcDayOf(now)
  const today = clock < day ? day : clock
  return {
    today,
    daily: day === today ? day_captured : 0,
    monthly: day.slice(0, 7) === today.slice(0, 7) ? month_captured : 0,
  }
}

function findOverspending({ holder, limits, meter }: MeteredHolder, price: number, now: number): Refusal | null {
  const spent = currentPeriodsOf(meter, now)
  const caps = [
    ['daily', limits.daily_microdollars, spent.daily],
    ['monthly', limits.monthly_microdollars, spent.monthly],
    ['total', limits.total_microdollars, meter.captured],
  ] as const
  for (const [by, cap, used] of caps) {
    const available = cap === null ? Number.POSITIVE_INFINITY : Math.max(0, cap - used - meter.reserved)
    if (price > available) return { kind: 'over_budget', by, holder, available, price }
  }
  return null
}

/** Returns the reason why a holder cannot send a request now, or null. */
export function rateRefusalOf({ holder, limits, meter }: MeteredHolder, now: number): Refusal | null {
  const rate = limits.requests_per_minute
  if (rate === null) return null
  if (rate === 0) return { kind: 'barred', by: 'rate', holder }
  const missing = 1 - computeBucketLevel(meter, rate, now)
  const retryAfterSeconds = Math.ceil((missing * 60) / rate)
  return missing > 0 ? { kind: 'limited', by: 'rate', holder, limit: rate, retryAfterSeconds } : null
}

/**
 * Returns the reason why a holder cannot start a job at this price now, or null. Reserved amounts count as spent. `isCounted`: the request
 * already counts toward the rate limit.
 */
export function refusalOf(metered: MeteredHolder, price: number, now: number, isCounted = false): Refusal | null {
  const { holder, limits, meter } = metered
  const jobs = limits.concurrent_jobs
  if (jobs === 0) return { kind: 'barred', by: 'concurrency', holder }
  const refusal = isCounted ? null : rateRefusalOf(metered, now)
  if (refusal) return refusal
  if (jobs !== null && meter.open >= jobs)
    return { kind: 'limited', by: 'concurrency', holder, limit: jobs, retryAfterSeconds: CONCURRENCY_RETRY_SECONDS }
  return findOverspending(metered, price, now)
}

/** Returns the state of a holder's bucket, or an empty list if its rate is not limited. */
export function computeRateState({ holder, limits, meter }: MeteredHolder, now: number): RateState[] {
  const limit = limits.requests_per_minute
  if (limit === null) return []
  const held = computeBucketLevel(meter, limit, now)
  const resetSeconds = limit === 0 ? 60 : Math.ceil(((limit - held) * 60) / limit)
  return [{ holder, limit, remaining: Math.floor(held), resetSeconds }]
}

/** Returns the meter after a request. */
export function countOn({ limits, meter }: MeteredHolder, now: number): Meter {
  const limit = limits.requests_per_minute
  return { ...meter, tokens: limit === null ? null : computeBucketLevel(meter, limit, now) - 1, refilled: now }
}

/** Returns the meter after a job is admitted: its request is counted unless it was already, one more job is open, and its price is reserved. */
export function reserveOn(metered: MeteredHolder, price: number, now: number, isCounted = false): Meter {
  const meter = isCounted ? metered.meter : countOn(metered, now)
  return { ...meter, open: meter.open + 1, reserved: meter.reserved + price }
}

/** Returns the meter after a job is settled: `charged` is captured, and the rest of `reserved` is released. */
export function settleOn(meter: Meter, reserved: number, charged: number, now: number): Meter {
  const { today, daily, monthly } = currentPeriodsOf(meter, now)
  return {
    ...meter,
    open: meter.open - 1,
    reserved: meter.reserved - reserved,
    captured: meter.captured + charged,
    ...(charged > 0 && { day: today, day_captured: daily + charged, month_captured: monthly + charged }),
  }
}

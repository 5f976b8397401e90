// A meter: what one holder of limits has used so far. Pure: the account keeps a row for itself, for each line of keys, and for each
// browser token that was used, and writes them in the transaction that changes its ledger.
import type { Holder, Limits, RateState } from './limits.ts'

/** Amounts are micro-dollars, times Unix milliseconds. `tokens` is the bucket as of `refilled`, the last request; `day` the latest UTC date of a capture. */
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
export type Metered = { holder: Holder; limits: Limits; meter: Meter }

export type Refusal =
  | { kind: 'limited'; by: 'rate' | 'concurrency'; holder: Holder; limit: number; retryAfterSeconds: number }
  /** A limit of zero: waiting changes nothing. */
  | { kind: 'barred'; by: 'rate' | 'concurrency'; holder: Holder }
  | {
      kind: 'over_budget'
      by: 'balance' | 'daily' | 'monthly' | 'total'
      holder: Holder
      available: number
      price: number
    }

const MINUTE_MS = 60_000
/** A guess at when a job ends: nobody knows, and a client that asks again costs little. */
const CONCURRENCY_RETRY_SECONDS = 2

export const newMeter = (id: string): Meter => ({
  ...{ id, tokens: null, refilled: 0, open: 0, reserved: 0, captured: 0 },
  ...{ day: '', day_captured: 0, month_captured: 0 },
})

export const utcDay = (now: number) => new Date(now).toISOString().slice(0, 10)

/** Requests that the bucket holds now. It fills at `limit` a minute and holds at most as many; a null is a bucket never used. */
const filled = ({ tokens, refilled }: Meter, limit: number, now: number) =>
  tokens === null ? limit : Math.min(limit, tokens + (Math.max(0, now - refilled) / MINUTE_MS) * limit)

/** The meter's day at `now`, and what was captured on it and in its month. A clock that moves backward does not begin an earlier day. */
function periods({ day, day_captured, month_captured }: Meter, now: number) {
  const clock = utcDay(now)
  const today = clock < day ? day : clock
  return {
    today,
    daily: day === today ? day_captured : 0,
    monthly: day.slice(0, 7) === today.slice(0, 7) ? month_captured : 0,
  }
}

function overspent({ holder, limits, meter }: Metered, price: number, now: number): Refusal | null {
  const spent = periods(meter, now)
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

/** Why a holder cannot start a job of this price now, or null when it can. What is reserved counts as spent. */
export function refusalOf(metered: Metered, price: number, now: number): Refusal | null {
  const { holder, limits, meter } = metered
  const { requests_per_minute: rate, concurrent_jobs: jobs } = limits
  if (rate === 0) return { kind: 'barred', by: 'rate', holder }
  if (jobs === 0) return { kind: 'barred', by: 'concurrency', holder }
  if (rate !== null) {
    const missing = 1 - filled(meter, rate, now)
    const retryAfterSeconds = Math.ceil((missing * 60) / rate)
    if (missing > 0) return { kind: 'limited', by: 'rate', holder, limit: rate, retryAfterSeconds }
  }
  if (jobs !== null && meter.open >= jobs)
    return { kind: 'limited', by: 'concurrency', holder, limit: jobs, retryAfterSeconds: CONCURRENCY_RETRY_SECONDS }
  return overspent(metered, price, now)
}

/** The state of a holder's bucket, or nothing when its rate is not limited. */
export function rateState({ holder, limits, meter }: Metered, now: number): RateState[] {
  const limit = limits.requests_per_minute
  if (limit === null) return []
  const held = filled(meter, limit, now)
  const resetSeconds = limit === 0 ? 60 : Math.ceil(((limit - held) * 60) / limit)
  return [{ holder, limit, remaining: Math.floor(held), resetSeconds }]
}

/** The meter after a request that reserves nothing. */
export function countOn({ limits, meter }: Metered, now: number): Meter {
  const limit = limits.requests_per_minute
  return { ...meter, tokens: limit === null ? null : filled(meter, limit, now) - 1, refilled: now }
}

/** The meter after a job was let in: one request out of the bucket, one more job open, its price reserved. */
export function reserveOn({ limits, meter }: Metered, price: number, now: number): Meter {
  const limit = limits.requests_per_minute
  const tokens = limit === null ? null : filled(meter, limit, now) - 1
  return { ...meter, tokens, refilled: now, open: meter.open + 1, reserved: meter.reserved + price }
}

/** The meter after a job was settled: `charged` of what was `reserved` is captured, the rest is free again. */
export function settleOn(meter: Meter, reserved: number, charged: number, now: number): Meter {
  const { today, daily, monthly } = periods(meter, now)
  return {
    ...meter,
    open: meter.open - 1,
    reserved: meter.reserved - reserved,
    captured: meter.captured + charged,
    ...(charged > 0 && { day: today, day_captured: daily + charged, month_captured: monthly + charged }),
  }
}

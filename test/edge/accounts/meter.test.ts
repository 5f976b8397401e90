import fc from 'fast-check'
import { describe, test } from 'vitest'
import {
  computeRateState,
  type Meter,
  type MeteredHolder,
  newMeter,
  refusalOf,
  reserveOn,
  settleOn,
  utcDayOf,
} from '../../../edge/accounts/meter.ts'
import { createRateHeaders } from '../../../edge/accounts/rate-limit-headers.ts'
import { type Limits, UNLIMITED } from '../../../edge/config/limits.ts'
import { createConfigWith } from '../support/config.ts'

const NOON = Date.UTC(2026, 10, 22, 12)
const SECOND = 1000
const DAY = 24 * 3600 * SECOND
const createMetered = (limits: Partial<Limits>, meter: Meter = newMeter('key:a')): MeteredHolder => ({
  holder: 'key',
  limits: { ...UNLIMITED, ...limits },
  meter,
})
/** A meter with `n` admitted jobs that are still running. */
const createMeterAfterJobs = (limits: Partial<Limits>, n: number, price = 0, now = NOON) =>
  Array.from({ length: n }).reduce<MeteredHolder>(
    (each) => ({ ...each, meter: reserveOn(each, price, now) }),
    createMetered(limits),
  )

describe('the bucket', () => {
  const limits = { requests_per_minute: 60 }
  test('admits the requests of a minute at once, then one per second', ({ expect }) => {
    expect(refusalOf(createMeterAfterJobs(limits, 59), 0, NOON)).toBeNull()
    const empty = createMeterAfterJobs(limits, 60)
    expect(refusalOf(empty, 0, NOON)).toEqual({
      ...{ kind: 'limited', by: 'rate', holder: 'key', limit: 60, retryAfterSeconds: 1 },
    })
    expect(refusalOf(empty, 0, NOON + SECOND)).toBeNull()
    expect(computeRateState(empty, NOON + 10 * SECOND)).toEqual([
      { holder: 'key', limit: 60, remaining: 10, resetSeconds: 50 },
    ])
  })

  test('is capped at the requests of one minute, and tolerates a clock that steps back', ({ expect }) => {
    const one = createMeterAfterJobs(limits, 1)
    expect(computeRateState(one, NOON + DAY)[0]!.remaining).toBe(60)
    expect(computeRateState(one, NOON - DAY)[0]!.remaining).toBe(59)
  })

  test('a lowered limit applies immediately; without a limit nothing is reported; zero admits nothing', ({
    expect,
  }) => {
    expect(
      computeRateState(createMetered({ requests_per_minute: 5 }, createMeterAfterJobs(limits, 3).meter), NOON)[0]!
        .remaining,
    ).toBe(5)
    expect(computeRateState(createMetered({}), NOON)).toEqual([])
    expect(refusalOf(createMetered({ requests_per_minute: 0 }), 0, NOON)).toMatchObject({ kind: 'barred', by: 'rate' })
  })
})

test('a limit of zero jobs refuses a job permanently, not until a later time', ({ expect }) => {
  const none = createMetered({ concurrent_jobs: 0 })
  expect(refusalOf(none, 0, NOON)).toEqual({ kind: 'barred', by: 'concurrency', holder: 'key' })
})

test('jobs count as concurrent until they are settled', ({ expect }) => {
  const limits = { concurrent_jobs: 2 }
  const busy = createMeterAfterJobs(limits, 2, 10)
  expect(refusalOf(busy, 0, NOON)).toMatchObject({ kind: 'limited', by: 'concurrency', limit: 2, holder: 'key' })
  expect(refusalOf(createMetered(limits, settleOn(busy.meter, 10, 0, NOON)), 0, NOON)).toBeNull()
})

describe('spend caps', () => {
  const createCapturedMeter = (amount: number, now: number, meter = newMeter('key:a')) =>
    settleOn(reserveOn(createMetered({}, meter), amount, now), amount, amount, now)

  test.for([
    ['daily', { daily_microdollars: 100 }, DAY],
    ['monthly', { monthly_microdollars: 100 }, 31 * DAY],
  ] as const)(
    '%s: reserved amounts count as spent, and each period starts at zero',
    ([by, limits, next], { expect }) => {
      const spent = createCapturedMeter(60, NOON)
      const refusal = (price: number, now: number) => refusalOf(createMetered(limits, spent), price, now)
      const createOverBudgetRefusal = (available: number, price: number) => ({
        kind: 'over_budget',
        by,
        holder: 'key',
        available,
        price,
      })
      expect(refusal(40, NOON)).toBeNull()
      expect(refusal(41, NOON)).toEqual(createOverBudgetRefusal(40, 41))
      expect(refusal(100, NOON + next)).toBeNull()
      expect(refusal(101, NOON + next)).toEqual(createOverBudgetRefusal(100, 101))
      const reserved = createMetered(limits, reserveOn(createMetered(limits, spent), 30, NOON))
      expect(refusalOf(reserved, 11, NOON)).toEqual(createOverBudgetRefusal(10, 11))
    },
  )

  test('total: is never reset', ({ expect }) => {
    const spent = createCapturedMeter(60, NOON)
    expect(refusalOf(createMetered({ total_microdollars: 100 }, spent), 41, NOON + 400 * DAY)).toMatchObject({
      by: 'total',
      available: 40,
    })
  })

  test('a partial capture releases the rest', ({ expect }) => {
    const meter = settleOn(reserveOn(createMetered({}), 100, NOON), 100, 25, NOON)
    expect(meter).toMatchObject({ open: 0, reserved: 0, captured: 25, day_captured: 25, month_captured: 25 })
  })

  test('a new day resets the daily amount only; a new month resets both', ({ expect }) => {
    const yesterday = createCapturedMeter(10, NOON)
    expect(createCapturedMeter(5, NOON + DAY, yesterday)).toMatchObject({
      day_captured: 5,
      month_captured: 15,
      captured: 15,
    })
    expect(createCapturedMeter(5, NOON + 31 * DAY, yesterday)).toMatchObject({
      day_captured: 5,
      month_captured: 5,
      captured: 15,
    })
  })
})

test('headers report every bucket, and OpenAI’s headers the one with the fewest remaining requests', ({ expect }) => {
  const states = [
    { holder: 'account', limit: 600, remaining: 580, resetSeconds: 2 },
    { holder: 'key', limit: 60, remaining: 3, resetSeconds: 57 },
  ] as const
  expect(createRateHeaders(states)).toEqual({
    'ratelimit-policy': '"account";q=600;w=60, "key";q=60;w=60',
    ratelimit: '"account";r=580;t=2, "key";r=3;t=57',
    'x-ratelimit-limit-requests': '60',
    'x-ratelimit-remaining-requests': '3',
    'x-ratelimit-reset-requests': '57s',
  })
  expect(createRateHeaders([])).toEqual({})
})

test('the deployment default is text or a table, and an error names the variable', ({ expect }) => {
  const read = (OCTET_ACCOUNT_LIMITS: unknown) => createConfigWith({ OCTET_ACCOUNT_LIMITS }).accountLimits
  expect(read('{"requests_per_minute": 5}')).toEqual({ ...UNLIMITED, requests_per_minute: 5 })
  expect(read({ concurrent_jobs: 5 })).toEqual({ ...UNLIMITED, concurrent_jobs: 5 })
  expect(() => read({ rpm: 5 })).toThrow('OCTET_ACCOUNT_LIMITS is {"rpm":5}: Unrecognized key: "rpm".')
})

describe('a clock that moves backward', () => {
  test('keeps the spending of the day and of the month', ({ expect }) => {
    const limits = { daily_microdollars: 100, monthly_microdollars: 100 }
    const midnight = Date.UTC(2026, 11, 1)
    const spend = (meter: Meter, amount: number, now: number) =>
      settleOn(reserveOn(createMetered(limits, meter), amount, now), amount, amount, now)
    const after = spend(newMeter('key:a'), 60, midnight)
    const before = midnight - 1
    expect(refusalOf(createMetered(limits, after), 41, before)).toMatchObject({
      kind: 'over_budget',
      by: 'daily',
      available: 40,
    })
    const again = spend(after, 40, before)
    expect(again).toMatchObject({ day: '2026-12-01', day_captured: 100, month_captured: 100 })
    expect(refusalOf(createMetered(limits, again), 1, midnight)).toMatchObject({ by: 'daily', available: 0 })
  })

  test('never raises a cap: for any sequence of times, no day or month exceeds it', ({ expect }) => {
    const limits = { daily_microdollars: 100, monthly_microdollars: 250 }
    const step = fc.record({
      move: fc.oneof(
        fc.integer({ min: -40 * DAY, max: 40 * DAY }),
        fc.integer({ min: -2 * DAY, max: 2 * DAY }),
        fc.constant(0),
      ),
      price: fc.integer({ min: 0, max: 120 }),
      share: fc.integer({ min: 0, max: 2 }),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        let [meter, now, latest] = [newMeter('key:a'), NOON, '']
        // Spending counts for the latest day so far, even if the clock moves backward.
        const spent = new Map<string, number>()
        for (const { move, price, share } of steps) {
          now += move
          if (refusalOf(createMetered(limits, meter), price, now)) continue
          const charged = Math.floor((price * share) / 2)
          meter = settleOn(reserveOn(createMetered(limits, meter), price, now), price, charged, now)
          if (charged === 0) continue
          latest = utcDayOf(now) > latest ? utcDayOf(now) : latest
          for (const period of [latest, latest.slice(0, 7)]) spent.set(period, (spent.get(period) ?? 0) + charged)
          expect(meter.day).toBe(latest)
        }
        for (const [period, sum] of spent) expect(sum).toBeLessThanOrEqual(period.length === 10 ? 100 : 250)
      }),
      { numRuns: 500 },
    )
  })
})

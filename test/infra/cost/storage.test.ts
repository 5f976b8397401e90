import { expect, test } from 'vitest'
import { FULL_BYTES, RETENTION_DAYS } from '../../../edge/results/retention.ts'
import { measureStorage } from '../../../infra/cost/measure-storage.ts'
import {
  countJobsBefore,
  daysOf,
  LIMITS,
  mostJobsPerDay,
  mostJobsPerDayOfDatabase,
  type StorageCase,
  simulateStorage,
} from '../../../infra/cost/storage.ts'
import sizes from '../../../infra/cost/storage-sizes.json' with { type: 'json' }

const YEAR = 365
const even: StorageCase = { jobs: 1000 * 3 * YEAR, years: 3, retentionDays: 30, busiest: 1, keys: 4 }
const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0)

test.each([1, 2, 7])(
  'daily arrivals are whole numbers that add up to all jobs, with a peak of %i times the mean',
  (busiest) => {
    const given = { ...even, jobs: 50_000_001, busiest }
    const before = countJobsBefore(given)
    const arrivals = Array.from({ length: daysOf(given) }, (_, day) => before(day + 1) - before(day))
    expect(sum(arrivals)).toBe(50_000_001)
    expect(arrivals.every((jobs) => Number.isInteger(jobs) && jobs >= 0)).toBe(true)
    expect(Math.max(...arrivals) / (50_000_001 / arrivals.length)).toBeCloseTo(busiest, 3)
  },
)

test('with a constant number of jobs per day, each store holds the jobs of its retention period', () => {
  const { peak, end } = simulateStorage(even)
  expect(peak).toEqual(end)
  expect(end.jobs).toEqual({ rows: 37_000, bytes: 37_000 * sizes.job })
  expect(end.images.rows).toBe(30_000)
  // Ledger rows, one day of idempotency keys, and usage rows: one per API key (four) for each of the last 400 days, one per earlier day.
  expect(end.account.rows).toBe(37_000 + 1000 + 400 * 4 + (3 * YEAR - 400))
  expect(end.account.bytes).toBe(
    37_000 * sizes.account.ledger + 1000 * sizes.account.idempotency + (1600 + 3 * YEAR - 400) * sizes.account.usage,
  )
  expect(end.database.rows).toBe(400_000 + 30_000 + (3 * YEAR - 400))
})

test('with 50 million jobs, no store ever fills up, and in the end only one row of sums per day remains', () => {
  const { peak, end, remains } = simulateStorage({ ...even, jobs: 50_000_000, busiest: 2 })
  for (const store of ['account', 'jobs', 'images', 'database'] as const) {
    expect(peak[store].bytes).toBeGreaterThanOrEqual(end[store].bytes)
    expect(peak[store].bytes).toBeLessThan(LIMITS[store] ?? Number.POSITIVE_INFINITY)
  }
  expect(remains.jobs).toEqual({ rows: 0, bytes: 0 })
  expect(remains.images).toEqual({ rows: 0, bytes: 0 })
  expect([remains.account.rows, remains.database.rows]).toEqual([3 * YEAR, 3 * YEAR])
  expect(remains.account.bytes + remains.database.bytes).toBeLessThan(1e6)
})

test('without deletion, the account would exceed its storage limit many times over', () => {
  const { end } = simulateStorage({ ...even, jobs: 50_000_000, retentionDays: 3 * YEAR })
  expect(end.account.bytes).toBeGreaterThan(10 * LIMITS.account!)
})

test.each(RETENTION_DAYS)(
  'with %i days of retention, mostJobsPerDay is the maximum rate that fits into an account',
  (days) => {
    const perDay = mostJobsPerDay(days)
    const at = (ratio: number) => {
      const jobs = Math.round(perDay * ratio) * 2 * YEAR
      return simulateStorage({ ...even, jobs, years: 2, retentionDays: days }).peak.account.bytes
    }
    expect(at(0.99)).toBeLessThan(FULL_BYTES)
    expect(at(1.01)).toBeGreaterThan(FULL_BYTES)
  },
)

test('mostJobsPerDayOfDatabase is the maximum rate that fits into D1', () => {
  const at = (ratio: number) => {
    const jobs = Math.round(mostJobsPerDayOfDatabase() * ratio) * 2 * YEAR
    return simulateStorage({ ...even, jobs, years: 2 }).peak.database.bytes
  }
  expect(at(0.99)).toBeLessThan(LIMITS.database!)
  expect(at(1.01)).toBeGreaterThan(LIMITS.database!)
})

test('the documented sizes match those measured from the current tables', { timeout: 300_000 }, async () => {
  const measured = await measureStorage(100)
  const ratio = (now: number, then: number) => now / then
  // With few rows, partly empty pages inflate the measured size of small rows.
  expect(ratio(measured.account.ledger, sizes.account.ledger)).toBeGreaterThan(0.8)
  expect(ratio(measured.account.ledger, sizes.account.ledger)).toBeLessThan(1.25)
  expect(ratio(measured.job, sizes.job)).toBeGreaterThan(0.8)
  expect(ratio(measured.job, sizes.job)).toBeLessThan(1.25)
  for (const table of ['usage_ledger', 'usage_daily', 'observations'] as const) {
    expect(ratio(measured.database[table], sizes.database[table]), table).toBeGreaterThan(0.7)
    expect(ratio(measured.database[table], sizes.database[table]), table).toBeLessThan(2)
  }
})

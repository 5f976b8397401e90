import { expect, test } from 'vitest'
import { FULL_BYTES, RETENTION_DAYS } from '../../edge/retention.ts'
import { measureStorage } from '../../infra/cost/measure-storage.ts'
import {
  arrivalsOf,
  LIMITS,
  mostJobsPerDay,
  mostJobsPerDayOfDatabase,
  type StorageCase,
  simulateStorage,
} from '../../infra/cost/storage.ts'
import sizes from '../../infra/cost/storage-sizes.json' with { type: 'json' }

const YEAR = 365
const even: StorageCase = { jobs: 1000 * 3 * YEAR, years: 3, retentionDays: 30, busiest: 1, keys: 4 }
const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0)

test.each([1, 2, 7])('all jobs arrive, in whole numbers, and the busiest month has %i times the mean', (busiest) => {
  const arrivals = arrivalsOf({ ...even, jobs: 50_000_001, busiest })
  expect(sum(arrivals)).toBe(50_000_001)
  expect(arrivals.every((jobs) => Number.isInteger(jobs) && jobs >= 0)).toBe(true)
  expect(Math.max(...arrivals) / (50_000_001 / arrivals.length)).toBeCloseTo(busiest, 3)
})

test('with the same number of jobs each day, a store has those of its days', () => {
  const { peak, end } = simulateStorage(even)
  expect(peak).toEqual(end)
  expect(end.jobs).toEqual({ rows: 37_000, bytes: 37_000 * sizes.job })
  expect(end.images.rows).toBe(30_000)
  // Ledger, the keys of a day, and usage: 400 days of four keys, then a row a day.
  expect(end.account.rows).toBe(37_000 + 1000 + 400 * 4 + (3 * YEAR - 400))
  expect(end.account.bytes).toBe(
    37_000 * sizes.account.ledger + 1000 * sizes.account.idempotency + (1600 + 3 * YEAR - 400) * sizes.account.usage,
  )
  expect(end.database.rows).toBe(400_000 + 30_000 + (3 * YEAR - 400))
})

test('of 50 million jobs a row of sums a day remains, and no store is ever full', () => {
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

test('if nothing were deleted, the account would be full long before', () => {
  const { end } = simulateStorage({ ...even, jobs: 50_000_000, retentionDays: 3 * YEAR })
  expect(end.account.bytes).toBeGreaterThan(10 * LIMITS.account!)
})

test.each(RETENTION_DAYS)(
  'with %i days of retention an account takes as many jobs a day as is said, and no more',
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

test('D1 takes as many jobs a day as is said, and no more', () => {
  const at = (ratio: number) => {
    const jobs = Math.round(mostJobsPerDayOfDatabase() * ratio) * 2 * YEAR
    return simulateStorage({ ...even, jobs, years: 2 }).peak.database.bytes
  }
  expect(at(0.99)).toBeLessThan(LIMITS.database!)
  expect(at(1.01)).toBeGreaterThan(LIMITS.database!)
})

test('the bytes of the page are those of the tables as they are now', { timeout: 300_000 }, async () => {
  const measured = await measureStorage(100)
  const ratio = (now: number, then: number) => now / then
  // Few rows leave pages half empty, so that small rows look larger.
  expect(ratio(measured.account.ledger, sizes.account.ledger)).toBeGreaterThan(0.8)
  expect(ratio(measured.account.ledger, sizes.account.ledger)).toBeLessThan(1.25)
  expect(ratio(measured.job, sizes.job)).toBeGreaterThan(0.8)
  expect(ratio(measured.job, sizes.job)).toBeLessThan(1.25)
  for (const table of ['usage_ledger', 'usage_daily', 'observations'] as const) {
    expect(ratio(measured.database[table], sizes.database[table]), table).toBeGreaterThan(0.7)
    expect(ratio(measured.database[table], sizes.database[table]), table).toBeLessThan(2)
  }
})

import { expect, test } from 'vitest'
import { FULL_BYTES, RETENTION_DAYS } from '../../../edge/results/retention.ts'
import { measureStorage } from '../../../infra/cost/measure-storage.ts'
import {
  computeMaxJobsPerDay,
  computeStorageBytes,
  LIMIT_BYTES,
  maxJobsPerDayOfDatabase,
} from '../../../infra/cost/storage.ts'
import sizes from '../../../infra/cost/storage-sizes.json' with { type: 'json' }

test('each store has the jobs of its retention period', () => {
  const { account, jobs, images } = computeStorageBytes(30)
  expect(account).toBe(37 * sizes.account.ledger + sizes.account.idempotency)
  expect(jobs).toBe(37 * sizes.job)
  expect(images).toBe(30 * 1_600_000)
})

test('50 million jobs of one account in three years fit, with twice the mean rate in the busiest month', () => {
  const jobsPerDay = 50e6 / (3 * 365)
  expect(2 * jobsPerDay * computeStorageBytes(30).account).toBeLessThan(FULL_BYTES)
  // D1 keeps the jobs of 400 days, of which 30 are busy.
  expect(jobsPerDay * (1 + 30 / 400) * computeStorageBytes(30).database).toBeLessThan(LIMIT_BYTES)
  expect(jobsPerDay).toBeLessThan(maxJobsPerDayOfDatabase())
})

test.each(RETENTION_DAYS)(
  'computeMaxJobsPerDay fits into an account with %i days of retention, and one more does not',
  (days) => {
    const { account } = computeStorageBytes(days)
    expect(computeMaxJobsPerDay(days) * account).toBeLessThanOrEqual(FULL_BYTES)
    expect((computeMaxJobsPerDay(days) + 1) * account).toBeGreaterThan(FULL_BYTES)
  },
)

test('the documented sizes match those measured from the current tables', { timeout: 300_000 }, async () => {
  const measured = await measureStorage(100)
  for (const ratio of [measured.account.ledger / sizes.account.ledger, measured.job / sizes.job]) {
    expect(ratio).toBeGreaterThan(0.8)
    expect(ratio).toBeLessThan(1.25)
  }
  // With few rows, partly empty pages inflate the measured size of small rows.
  for (const table of ['usage_ledger', 'observations'] as const) {
    expect(measured.database[table] / sizes.database[table], table).toBeGreaterThan(0.7)
    expect(measured.database[table] / sizes.database[table], table).toBeLessThan(2)
  }
})

// Models the storage of a deployment day by day: jobs arrive, and their data is deleted or aggregated at the end of its retention. The
// retention periods are the worker's; the row sizes are measured (measure-storage.ts).
import { FULL_BYTES, OBSERVATION_DAYS, RECORD_DAYS, USAGE_DAYS, USAGE_KEY_DAYS } from '../../edge/results/retention.ts'
import figures from './figures.json' with { type: 'json' }
import type { StorageSizes } from './measure-storage.ts'
import sizes from './storage-sizes.json' with { type: 'json' }

export type StorageCase = {
  /** Total jobs of one account, each with one image. */
  jobs: number
  years: number
  retentionDays: number
  /** Jobs per day in the busiest month, as a multiple of the mean. */
  busiest: number
  /** API keys in use each day. */
  keys: number
}

export const STORES = ['account', 'jobs', 'images', 'database'] as const
type Store = (typeof STORES)[number]
export type Stock = { rows: number; bytes: number }
export type Stocks = Record<Store, Stock>

/** The platform's storage limits in bytes; stores without an entry are unlimited. */
export const LIMITS: Partial<Record<Store, number>> = { account: 10e9, database: 10e9 }

const BUSY_DAYS = 30

/** Number of days with jobs. */
export const daysOf = ({ years }: StorageCase) => Math.round(years * 365)

/**
 * Cumulative jobs before a day, rounded to integers. The busiest month is in the middle; the remaining jobs are spread evenly over the other
 * days, and none arrive outside of the period.
 */
export function countJobsBefore(given: StorageCase): (day: number) => number {
  const { jobs, busiest } = given
  const days = daysOf(given)
  const busy = Math.min(BUSY_DAYS, days)
  const first = Math.floor((days - busy) / 2)
  const most = Math.min((jobs / days) * busiest, jobs / busy)
  const quiet = days > busy ? (jobs - most * busy) / (days - busy) : most
  return (day) => {
    const past = Math.max(0, Math.min(days, day))
    const busyPast = Math.max(0, Math.min(busy, past - first))
    return Math.round(busyPast * most + (past - busyPast) * quiet)
  }
}

type Table = [rows: number, bytesPerRow: number]
const stockOf = (...tables: Table[]): Stock => ({
  rows: tables.reduce((sum, [rows]) => sum + rows, 0),
  bytes: tables.reduce((sum, [rows, bytes]) => sum + rows * bytes, 0),
})

/** Storage on each day, until all retention periods have ended. */
function historyOf(given: StorageCase, { account, job, database }: StorageSizes): Stocks[] {
  const { retentionDays, keys } = given
  const before = countJobsBefore(given)
  const jobDays = daysOf(given)
  const recordDays = retentionDays + RECORD_DAYS
  const days = jobDays + Math.max(recordDays, USAGE_DAYS, USAGE_KEY_DAYS) + 1
  return Array.from({ length: days }, (_, day) => {
    /** Jobs of the last days, up to and including `day`. */
    const within = (window: number) => before(day + 1) - before(day + 1 - window)
    /** Days with jobs that are older than the window; each leaves one aggregate row. */
    const folded = (window: number) => Math.min(jobDays, Math.max(0, day + 1 - window))
    const foldedKeys = folded(USAGE_KEY_DAYS)
    const byKey = Math.min(day + 1, jobDays) - foldedKeys
    return {
      account: stockOf(
        [within(recordDays), account.ledger],
        [within(1), account.idempotency],
        [byKey * keys + foldedKeys, account.usage],
      ),
      jobs: stockOf([within(recordDays), job]),
      images: stockOf([within(retentionDays), figures.image_bytes.value]),
      database: stockOf(
        [within(USAGE_DAYS), database.usage_ledger],
        [within(OBSERVATION_DAYS), database.observations],
        [folded(USAGE_DAYS), database.usage_daily],
      ),
    }
  })
}

export type StorageOutcome = {
  /** Each store on its peak day. */
  peak: Stocks
  /** The last day with jobs. */
  end: Stocks
  /** After all retention periods: aggregates only. */
  remains: Stocks
}

export function simulateStorage(given: StorageCase, measured: StorageSizes = sizes): StorageOutcome {
  const history = historyOf(given, measured)
  const fullest = (store: Store) => history.map((stocks) => stocks[store]).toSorted((a, b) => b.bytes - a.bytes)[0]!
  return {
    peak: Object.fromEntries(STORES.map((store) => [store, fullest(store)])) as Stocks,
    end: history[daysOf(given) - 1]!,
    remains: history.at(-1)!,
  }
}

/** Sustainable jobs per day of one account at this retention. */
export const mostJobsPerDay = (retentionDays: number, { account }: StorageSizes = sizes) =>
  Math.floor(FULL_BYTES / ((retentionDays + RECORD_DAYS) * account.ledger + account.idempotency))

/** Sustainable jobs per day of all accounts in D1. */
export const mostJobsPerDayOfDatabase = ({ database }: StorageSizes = sizes) =>
  Math.floor(LIMITS.database! / (USAGE_DAYS * database.usage_ledger + OBSERVATION_DAYS * database.observations))

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

/** Jobs per day, as integers. The busiest month is in the middle; the remaining jobs are spread evenly over the other days. */
export function arrivalsOf({ jobs, years, busiest }: StorageCase): Float64Array {
  const days = Math.round(years * 365)
  const busy = Math.min(BUSY_DAYS, days)
  const first = Math.floor((days - busy) / 2)
  const most = Math.min((jobs / days) * busiest, jobs / busy)
  const quiet = days > busy ? (jobs - most * busy) / (days - busy) : most
  /** Cumulative jobs before a day, rounded, so that the days add up to the total. */
  const before = (day: number) => {
    const busyBefore = Math.max(0, Math.min(busy, day - first))
    return Math.round(busyBefore * most + (day - busyBefore) * quiet)
  }
  return Float64Array.from({ length: days }, (_, day) => before(day + 1) - before(day))
}

/** Rolling sum of arrivals over `window` days, for each of `days` days. Nothing arrives after the last entry of `arrivals`. */
function sumWindow(arrivals: Float64Array, days: number, window: number): Float64Array {
  const stock = new Float64Array(days)
  let sum = 0
  for (let day = 0; day < days; day++) {
    sum += (arrivals[day] ?? 0) - (day >= window ? (arrivals[day - window] ?? 0) : 0)
    stock[day] = sum
  }
  return stock
}

type Table = [rows: number, bytesPerRow: number]
const stockOf = (...tables: Table[]): Stock => ({
  rows: tables.reduce((sum, [rows]) => sum + rows, 0),
  bytes: tables.reduce((sum, [rows, bytes]) => sum + rows * bytes, 0),
})

/** Storage on each day, until all retention periods have ended. */
function historyOf(given: StorageCase, { account, job, database }: StorageSizes): Stocks[] {
  const { retentionDays, keys } = given
  const arrivals = arrivalsOf(given)
  const recordDays = retentionDays + RECORD_DAYS
  const days = arrivals.length + Math.max(recordDays, USAGE_DAYS, USAGE_KEY_DAYS) + 1
  const within = (window: number) => sumWindow(arrivals, days, window)
  const [today, records, images, usage, observed] = [
    ...([within(1), within(recordDays), within(retentionDays)] as const),
    ...([within(USAGE_DAYS), within(OBSERVATION_DAYS)] as const),
  ]
  /** Days with jobs that are older than the window on `day`; each leaves one aggregate row. */
  const folded = (day: number, window: number) => Math.min(arrivals.length, Math.max(0, day + 1 - window))
  return Array.from({ length: days }, (_, day) => {
    const before = folded(day, USAGE_KEY_DAYS)
    const byKey = Math.min(day + 1, arrivals.length) - before
    return {
      account: stockOf(
        [records[day]!, account.ledger],
        [today[day]!, account.idempotency],
        [byKey * keys + before, account.usage],
      ),
      jobs: stockOf([records[day]!, job]),
      images: stockOf([images[day]!, figures.image_bytes.value]),
      database: stockOf(
        [usage[day]!, database.usage_ledger],
        [observed[day]!, database.observations],
        [folded(day, USAGE_DAYS), database.usage_daily],
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
    end: history[arrivalsOf(given).length - 1]!,
    remains: history.at(-1)!,
  }
}

/** Sustainable jobs per day of one account at this retention. */
export const mostJobsPerDay = (retentionDays: number, { account }: StorageSizes = sizes) =>
  Math.floor(FULL_BYTES / ((retentionDays + RECORD_DAYS) * account.ledger + account.idempotency))

/** Sustainable jobs per day of all accounts in D1. */
export const mostJobsPerDayOfDatabase = ({ database }: StorageSizes = sizes) =>
  Math.floor(LIMITS.database! / (USAGE_DAYS * database.usage_ledger + OBSERVATION_DAYS * database.observations))

// Storage at a constant number of jobs per day, when as many are deleted as arrive. The retention periods are the worker's; the row sizes
// are measured (measure-storage.ts). Aggregated usage, a row per day and key, is below 1 MB and not included.
import { FULL_BYTES, OBSERVATION_DAYS, RECORD_DAYS, USAGE_DAYS } from '../../edge/results/retention.ts'
import figures from './figures.json' with { type: 'json' }
import sizes from './storage-sizes.json' with { type: 'json' }

/** The platform's storage limit of an AccountDO and of D1, in bytes. */
export const LIMIT_BYTES = 10e9

/** Bytes in each store for one job of one image per day. */
export function computeStorageBytes(retentionDays: number) {
  const recordDays = retentionDays + RECORD_DAYS
  const { account, job, database } = sizes
  return {
    account: recordDays * account.ledger + account.idempotency,
    jobs: recordDays * job,
    images: retentionDays * figures.image_bytes.value,
    database: USAGE_DAYS * database.usage_ledger + OBSERVATION_DAYS * database.observations,
  }
}

/** Sustainable jobs per day of one account at this retention. */
export const computeMaxJobsPerDay = (retentionDays: number) =>
  Math.floor(FULL_BYTES / computeStorageBytes(retentionDays).account)

/** Sustainable jobs per day of all accounts in D1. */
export const maxJobsPerDayOfDatabase = () => Math.floor(LIMIT_BYTES / computeStorageBytes(0).database)

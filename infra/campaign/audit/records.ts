// Reads a stopped worker's databases: job records, account ledgers, and the rows exported to D1.
import type { DatabaseSync } from 'node:sqlite'
import { deserialize } from 'node:v8'
import { mapDatabases } from '../../local/servers/databases.ts'
import type { Identity } from '../../system/programs/gpu-runs.ts'

/** A row of an account's ledger. Amounts are micro-dollars. */
export type LedgerRow = { job: string; state: string; amount: number; charged: number; fingerprint: string | null }
export type UsageRow = Pick<LedgerRow, 'job' | 'state' | 'charged'>
/** The fields of JobDO's record used by the campaign. `finished` is in Unix milliseconds. */
export type JobRow = {
  id: string
  state: string
  price: number
  fingerprint: string
  finished: number | null
  request: Identity
}
export type Books = { ledger: LedgerRow[]; usage: UsageRow[]; jobs: JobRow[] }

const isJob = (value: unknown): value is JobRow =>
  typeof value === 'object' && value !== null && 'fingerprint' in value && 'price' in value && 'request' in value

/** The record in a JobDO's storage: the only value that is a job. Values use V8's serialization format, which Node can read. */
function selectJobs(database: DatabaseSync): JobRow[] {
  const rows = database.prepare('SELECT value FROM _cf_KV').all() as { value: Uint8Array }[]
  return rows.map(({ value }) => deserialize(value) as unknown).filter(isJob)
}

/** Reads the databases of a stopped worker. */
export async function readBooks(persist: string): Promise<Books> {
  const select = (kind: 'account' | 'usage', sql: string) =>
    mapDatabases(persist, kind, (database) => database.prepare(sql).all() as unknown[])
  const ledger = await select('account', 'SELECT job, state, amount, charged, fingerprint FROM ledger')
  const usage = await select('usage', 'SELECT job, state, charged FROM usage_ledger')
  const jobs = await mapDatabases(persist, 'job', selectJobs)
  return { ledger: ledger.flat() as LedgerRow[], usage: usage.flat() as UsageRow[], jobs: jobs.flat() }
}

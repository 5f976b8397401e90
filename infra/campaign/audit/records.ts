// Reads a stopped worker's databases: job records, account ledgers, and the rows exported to D1.
import fs from 'node:fs/promises'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { deserialize } from 'node:v8'
import type { Asked } from '../programs/gpu-runs.ts'

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
  request: Asked
}
export type Books = { ledger: LedgerRow[]; usage: UsageRow[]; jobs: JobRow[] }

const tables = (database: DatabaseSync) =>
  database
    .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")
    .all()
    .map(({ name }) => name as string)

/** Collects the rows returned by `read` from each database matching `pattern` that has the table. */
async function collect<Row>(
  persist: string,
  pattern: string,
  table: string,
  read: (database: DatabaseSync) => Row[],
): Promise<Row[]> {
  const rows: Row[] = []
  for await (const name of fs.glob(pattern, { cwd: persist })) {
    const database = new DatabaseSync(path.join(persist, name))
    if (tables(database).includes(table)) rows.push(...read(database))
    database.close()
  }
  return rows
}

const isJob = (value: unknown): value is JobRow =>
  typeof value === 'object' && value !== null && 'fingerprint' in value && 'price' in value && 'request' in value

/** The record in a JobDO's storage: the only value that is a job. Values use V8's serialization format, which Node can read. */
function jobsIn(database: DatabaseSync): JobRow[] {
  const rows = database.prepare('SELECT value FROM _cf_KV').all() as { value: Uint8Array }[]
  return rows.map(({ value }) => deserialize(value) as unknown).filter(isJob)
}

/** Reads the databases of a stopped worker. */
export async function readBooks(persist: string): Promise<Books> {
  const ledger = collect(
    persist,
    '**/*AccountDO*/*.sqlite',
    'ledger',
    (database) =>
      database.prepare('SELECT job, state, amount, charged, fingerprint FROM ledger').all() as unknown as LedgerRow[],
  )
  const usage = collect(
    persist,
    '**/*D1*/*.sqlite',
    'usage_ledger',
    (database) => database.prepare('SELECT job, state, charged FROM usage_ledger').all() as unknown as UsageRow[],
  )
  const jobs = collect(persist, '**/*JobDO*/*.sqlite', '_cf_KV', jobsIn)
  return { ledger: await ledger, usage: await usage, jobs: await jobs }
}

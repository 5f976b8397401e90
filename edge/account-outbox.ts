// The export of an account's ledger: settled rows are sent to the Queue `octet-usage` until its consumer confirms that they arrived,
// whatever the Queue loses or gives up.
import type { LedgerEntry, Outcome } from './account-ledger.ts'
import type { Env } from './env.ts'
import type { Observed } from './forecast.ts'
import { log } from './log.ts'
import type { Tier } from './route.ts'

/** Settled rows wait this long for company, so that a busy account sends batches. */
export const OUTBOX_MS = 10_000
const BATCH = 100
const BATCHES = 10

/** A settled job for the export. `id` is the ledger id, `<account>/<job>`, the same whenever it is sent. */
export type UsageRecord = {
  id: string
  account: string
  job: string
  key_id: string
  tier: Tier
  state: Outcome
  reserved_amount: number
  charged: number
  reserved: number
  settled: number
  stripe_customer: string | null
  observed: Observed | null
}
type Row = LedgerEntry & { state: Outcome; settled: number; observed: string | null }
type Sender = { account: string; stripe_customer: string | null }

export const OUTBOX_SCHEMA = `
  CREATE TABLE IF NOT EXISTS usage_outbox (job TEXT PRIMARY KEY, due INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS usage_outbox_due ON usage_outbox (due);`

/** Puts a settled job into the outbox, in the transaction that settles it. */
export function putOut(sql: SqlStorage, job: string): void {
  sql.exec('INSERT OR REPLACE INTO usage_outbox VALUES (?, ?)', job, Date.now())
}

/** Whether a job's settlement has not been exported yet. */
export const isExporting = (sql: SqlStorage, job: string): boolean =>
  sql.exec('SELECT 1 FROM usage_outbox WHERE job = ?', job).toArray().length > 0

/** Takes jobs out of the outbox: they have arrived, or are not to be exported. */
export function takeOut(sql: SqlStorage, jobs: readonly string[]): void {
  sql.exec('DELETE FROM usage_outbox WHERE job IN (SELECT value FROM json_each(?))', JSON.stringify(jobs))
}

/** When the next row is to be sent, in Unix milliseconds; null when all have arrived. */
export const nextExport = (sql: SqlStorage): number | null =>
  sql.exec<{ at: number | null }>('SELECT min(due) AS at FROM usage_outbox').one().at

const recordOf = ({ account, stripe_customer }: Sender, row: Row): UsageRecord => {
  const { job, key_id, tier, state, amount, charged, reserved, settled } = row
  const money = { state, reserved_amount: amount, charged, reserved, settled, stripe_customer }
  return { id: `${account}/${job}`, account, job, key_id, tier, ...money, observed: readObserved(account, row) }
}

/** What a job took. One that cannot be read is left out, so that the money of its row, and all other rows, are exported. */
function readObserved(account: string, { job, observed }: Row): Observed | null {
  if (observed === null) return null
  try {
    return JSON.parse(observed) as Observed
  } catch (cause) {
    log('error', 'an observation cannot be read and is left out', { account, job, cause })
    return null
  }
}

/** Sends up to a thousand rows that are due, oldest first. Each is due again `againMs` after the Queue took it, unless it arrives. */
export async function exportBatch(
  sql: SqlStorage,
  { USAGE }: Pick<Env, 'USAGE'>,
  sender: Sender,
  againMs: number,
): Promise<void> {
  const now = Date.now()
  for (let batch = 0; batch < BATCHES; batch++) {
    const rows = sql
      .exec<Row>('SELECT * FROM usage_outbox JOIN ledger USING (job) WHERE due <= ? ORDER BY due LIMIT ?', now, BATCH)
      .toArray()
    if (rows.length === 0) return
    await USAGE.sendBatch(rows.map((row) => ({ body: recordOf(sender, row) })))
    for (const { job } of rows) sql.exec('UPDATE usage_outbox SET due = ? WHERE job = ?', now + againMs, job)
  }
}

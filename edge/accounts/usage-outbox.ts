// The outbox of an account's ledger: settled rows are sent to the Queue `octet-usage` until its consumer confirms receipt, even if the queue
// loses or drops messages.

import { log } from '../platform/log.ts'
import { Outbox } from '../platform/outbox.ts'
import type { Observation } from '../routing/observation.ts'
import type { UsageRecord } from '../usage/record.ts'

/** The delay before settled rows are sent, so that a busy account sends batches. */
export const OUTBOX_MS = 10_000
const BATCH = 100
const PAUSE_MS = { first: OUTBOX_MS, max: 5 * 60_000 }

/** A settled row of the ledger. */
type Row = Pick<UsageRecord, 'job' | 'key_id' | 'tier' | 'state' | 'charged' | 'reserved' | 'settled'> & {
  amount: number
  observed: string | null
}
type Sender = { account: string; stripe_customer: string | null }

export const OUTBOX_SCHEMA = `
  CREATE TABLE IF NOT EXISTS usage_outbox (job TEXT PRIMARY KEY, due INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS usage_outbox_due ON usage_outbox (due);`

/** Puts a settled job into the outbox, in the transaction that settles it. */
export function addToOutbox(sql: SqlStorage, job: string): void {
  sql.exec('INSERT OR REPLACE INTO usage_outbox VALUES (?, ?)', job, Date.now())
}

/** Whether the export of a job's settlement is pending. */
export const isExporting = (sql: SqlStorage, job: string): boolean =>
  sql.exec('SELECT 1 FROM usage_outbox WHERE job = ?', job).toArray().length > 0

/** Removes jobs from the outbox because their export is confirmed or not needed. */
export function removeFromOutbox(sql: SqlStorage, jobs: readonly string[]): void {
  sql.exec('DELETE FROM usage_outbox WHERE job IN (SELECT value FROM json_each(?))', JSON.stringify(jobs))
}

/** Returns the time of the next export in Unix milliseconds, or null if the outbox is empty. */
export const findNextExport = (sql: SqlStorage): number | null =>
  sql.exec<{ at: number | null }>('SELECT min(due) AS at FROM usage_outbox').one().at

const recordOf = ({ account, stripe_customer }: Sender, row: Row): UsageRecord => {
  const { job, key_id, tier, state, amount, charged, reserved, settled } = row
  const money = { state, reserved_amount: amount, charged, reserved, settled, stripe_customer }
  return { id: `${account}/${job}`, account, job, key_id, tier, ...money, observed: readObserved(account, row) }
}

/** Parses a job's measurements. A malformed value is omitted so that it does not block the export of this or any other row. */
function readObserved(account: string, { job, observed }: Row): Observation | null {
  if (observed === null) return null
  try {
    return JSON.parse(observed) as Observation
  } catch (cause) {
    log('error', 'an observation is malformed and was omitted from the export', { account, job, cause })
    return null
  }
}

/** The due rows, oldest first; null if there are none. */
function selectDueRows(sql: SqlStorage): Row[] | null {
  const rows = sql
    .exec<Row>(
      'SELECT * FROM usage_outbox JOIN ledger USING (job) WHERE due <= ? ORDER BY due LIMIT ?',
      ...[Date.now(), BATCH],
    )
    .toArray()
  return rows.length === 0 ? null : rows
}

/** The outbox of an account. Each row is sent again after `againMs` unless its receipt is confirmed. */
export function openUsageOutbox(
  sql: SqlStorage,
  { USAGE }: Pick<Env, 'USAGE'>,
  sender: () => Sender,
  againMs: number,
): Outbox<Row[]> {
  return new Outbox({
    name: 'usage',
    take: () => selectDueRows(sql),
    send: async (rows) => {
      const from = sender()
      await USAGE.sendBatch(rows.map((row) => ({ body: recordOf(from, row) })))
      for (const { job } of rows) sql.exec('UPDATE usage_outbox SET due = ? WHERE job = ?', Date.now() + againMs, job)
    },
    nextDue: () => findNextExport(sql),
    concurrency: 1,
    pauseMs: PAUSE_MS,
  })
}

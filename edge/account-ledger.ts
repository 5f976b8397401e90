// An account's ledger and meters, as functions over its SQLite. A job has one row: reserved, then captured or released, once.
// Sums are kept beside the rows, in the same transaction, so that nothing here grows with the ledger.
import { putOut } from './account-outbox.ts'
import type { Observed } from './forecast.ts'
import { type Meter, type Metered, newMeter, reserveOn, settleOn, utcDay } from './meter.ts'
import type { Tier } from './route.ts'

export const LEDGER_SCHEMA = `
  CREATE TABLE IF NOT EXISTS ledger (
    job TEXT PRIMARY KEY, key_id TEXT NOT NULL, meters TEXT NOT NULL, tier TEXT NOT NULL, amount INTEGER NOT NULL,
    charged INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL, reserved INTEGER NOT NULL, settled INTEGER,
    fingerprint TEXT, observed TEXT, orphan INTEGER NOT NULL DEFAULT 0) STRICT;
  CREATE INDEX IF NOT EXISTS ledger_open ON ledger (reserved) WHERE state = 'reserved';
  CREATE INDEX IF NOT EXISTS ledger_in_flight ON ledger (fingerprint) WHERE state = 'reserved' AND fingerprint IS NOT NULL;
  CREATE TABLE IF NOT EXISTS meters (
    id TEXT PRIMARY KEY, tokens REAL, refilled INTEGER NOT NULL, open INTEGER NOT NULL, reserved INTEGER NOT NULL,
    captured INTEGER NOT NULL, day TEXT NOT NULL, day_captured INTEGER NOT NULL, month_captured INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL, key_id TEXT NOT NULL, tier TEXT NOT NULL, jobs INTEGER NOT NULL, amount INTEGER NOT NULL,
    PRIMARY KEY (day, key_id, tier)) STRICT, WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS credits (
    id TEXT PRIMARY KEY, amount INTEGER NOT NULL, note TEXT NOT NULL, created INTEGER NOT NULL) STRICT;`

export type Outcome = 'captured' | 'released'
/** Amounts are micro-dollars, times Unix milliseconds. `amount` was reserved, `charged` was captured of it. */
export type LedgerEntry = {
  job: string
  key_id: string
  tier: Tier
  amount: number
  charged: number
  state: 'reserved' | Outcome
  reserved: number
  settled: number | null
}
/**
 * `amount` captures a part of what was reserved, in micro-dollars; all of it when left out. `observed` is for forecasts. `forget` frees the
 * job's Idempotency-Key, for a retry that is to make another job.
 */
export type Settlement = { outcome: Outcome; amount?: number; observed?: Observed | null; forget?: boolean }
export type Reservation = { job: string; keyId: string; tier: Tier; price: number; fingerprint: string | null }
/** Sums in micro-dollars, and how many jobs are open. */
export type Sums = { credited: number; captured: number; reserved: number; open: number }
export type UsageRow = { day: string; key_id: string; tier: Tier; jobs: number; amount: number }

const COLUMNS = 'job, key_id, tier, amount, charged, state, reserved, settled'

export const entryOf = (sql: SqlStorage, job: string): LedgerEntry | null =>
  sql.exec<LedgerEntry>(`SELECT ${COLUMNS} FROM ledger WHERE job = ?`, job).toArray()[0] ?? null

export const meterOf = (sql: SqlStorage, id: string): Meter =>
  sql.exec<Meter>('SELECT * FROM meters WHERE id = ?', id).toArray()[0] ?? newMeter(id)

function saveMeter(sql: SqlStorage, meter: Meter): void {
  const { id, tokens, refilled, open, reserved, captured, day, day_captured, month_captured } = meter
  const values = [id, tokens, refilled, open, reserved, captured, day, day_captured, month_captured]
  sql.exec('INSERT OR REPLACE INTO meters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)', ...values)
}

/** Reserves a job's price on every meter that counts it. Call it in a transaction that has found no refusal. */
export function reserve(
  sql: SqlStorage,
  { job, keyId, tier, price, fingerprint }: Reservation,
  metered: Metered[],
): void {
  const now = Date.now()
  const meters = metered.map(({ meter }) => meter.id)
  sql.exec(
    `INSERT INTO ledger (job, key_id, meters, tier, amount, state, reserved, fingerprint) VALUES (?, ?, ?, ?, ?, 'reserved', ?, ?)`,
    ...[job, keyId, JSON.stringify(meters), tier, price, now, fingerprint],
  )
  for (const each of metered) saveMeter(sql, reserveOn(each, price, now))
}

/** Makes a reservation new, so that the alarm does not take it for an orphan while a repeated request creates its job. */
export function renew(sql: SqlStorage, job: string): void {
  sql.exec("UPDATE ledger SET reserved = ? WHERE job = ? AND state = 'reserved'", Date.now(), job)
}

/** Settles a reserved job and moves the meters and the usage with it, in the caller's transaction. False when it was settled before. */
export function settleOnce(sql: SqlStorage, job: string, { outcome, amount, observed = null }: Settlement): boolean {
  const entry = entryOf(sql, job)
  if (entry?.state !== 'reserved') return false
  const charged = outcome === 'released' ? 0 : (amount ?? entry.amount)
  if (!Number.isInteger(charged) || charged < 0 || charged > entry.amount)
    throw new RangeError(`job ${job} reserved ${entry.amount} micro-dollars; ${charged} cannot be captured of it`)
  const now = Date.now()
  const { meters } = sql
    .exec<{ meters: string }>(
      'UPDATE ledger SET state = ?, charged = ?, settled = ?, observed = ? WHERE job = ? RETURNING meters',
      ...[outcome, charged, now, observed && JSON.stringify(observed), job],
    )
    .one()
  for (const id of JSON.parse(meters) as string[])
    saveMeter(sql, settleOn(meterOf(sql, id), entry.amount, charged, now))
  putOut(sql, job)
  if (outcome === 'captured') countUsage(sql, { ...entry, charged }, utcDay(now))
  return true
}

function countUsage(sql: SqlStorage, { key_id, tier, charged }: LedgerEntry, day: string): void {
  sql.exec(
    `INSERT INTO usage VALUES (?, ?, ?, 1, ?)
     ON CONFLICT DO UPDATE SET jobs = jobs + 1, amount = amount + excluded.amount`,
    ...[day, key_id, tier, charged],
  )
}

/** Adds credit once for an id: the first call with it stands. Returns what stands. */
export function addCredit(sql: SqlStorage, id: string, amount: number, note: string): { amount: number; note: string } {
  sql.exec('INSERT OR IGNORE INTO credits VALUES (?, ?, ?, ?)', id, amount, note, Date.now())
  return sql.exec<{ amount: number; note: string }>('SELECT amount, note FROM credits WHERE id = ?', id).one()
}

export function credited(sql: SqlStorage): number {
  return sql.exec<{ total: number }>('SELECT coalesce(sum(amount), 0) AS total FROM credits').one().total
}

/** The sums as they are kept. The balance is credits less captures. */
export function sumsOf(sql: SqlStorage): Sums {
  const { captured, reserved, open } = meterOf(sql, 'account')
  return { credited: credited(sql), captured, reserved, open }
}

/** The same sums added up row by row: what the kept ones must equal, always. */
export function audit(sql: SqlStorage): Sums {
  const rows = sql
    .exec<Omit<Sums, 'credited'>>(
      `SELECT coalesce(sum(charged), 0) AS captured, coalesce(sum(iif(state = 'reserved', amount, 0)), 0) AS reserved,
        coalesce(sum(state = 'reserved'), 0) AS open FROM ledger`,
    )
    .one()
  return { credited: credited(sql), ...rows }
}

/** Captured jobs and money by UTC day, key and tier, oldest first; both days are included. */
export const usageBetween = (sql: SqlStorage, from: string, to: string): UsageRow[] =>
  sql.exec<UsageRow>('SELECT * FROM usage WHERE day BETWEEN ? AND ? ORDER BY day, key_id, tier', from, to).toArray()

/** Open jobs that were reserved before `before` (Unix milliseconds). */
export const openBefore = (sql: SqlStorage, before: number): string[] =>
  sql
    .exec<{ job: string }>(
      "SELECT job FROM ledger WHERE state = 'reserved' AND reserved <= ? ORDER BY reserved",
      before,
    )
    .toArray()
    .map(({ job }) => job)

/** Ids of jobs in the order of their admission, newest first: all, or those before the job `after`. Null when that one is not known. */
export function jobsBefore(sql: SqlStorage, limit: number, after: string | null): string[] | null {
  const [last] = sql.exec<{ rowid: number }>('SELECT rowid FROM ledger WHERE job = ?', after).toArray()
  if (after !== null && !last) return null
  const rows = sql.exec<{ job: string }>(
    'SELECT job FROM ledger WHERE rowid < ? ORDER BY rowid DESC LIMIT ?',
    ...[last?.rowid ?? Number.MAX_SAFE_INTEGER, limit],
  )
  return rows.toArray().map(({ job }) => job)
}

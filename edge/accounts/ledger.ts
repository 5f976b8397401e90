// An account's ledger and meters in SQLite. Each job has one row: reserved, then captured or released, once. Sums are updated in the same
// transaction, so that no query depends on the number of rows.

import type { Tier } from '#contract'
import { log } from '../platform/log.ts'
import { DAY_MS } from '../platform/units.ts'
import { isAvailable } from '../results/results.ts'
import { USAGE_KEY_DAYS } from '../results/retention.ts'
import type { Observation } from '../routing/observation.ts'
import type { LedgerEntry } from '../usage/record.ts'
import type { JobSpec, JobSummary } from './job-spec.ts'
import { countOn, type Meter, type MeteredHolder, newMeter, reserveOn, settleOn, utcDayOf } from './meter.ts'
import { addToOutbox, isExporting } from './usage-outbox.ts'

export const LEDGER_SCHEMA = `
  CREATE TABLE IF NOT EXISTS ledger (
    job TEXT PRIMARY KEY, name TEXT, key_id TEXT NOT NULL, token TEXT, meters TEXT NOT NULL, tier TEXT NOT NULL,
    amount INTEGER NOT NULL, charged INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL, reserved INTEGER NOT NULL, settled INTEGER,
    fingerprint TEXT NOT NULL, digest TEXT NOT NULL, spec TEXT, summary TEXT, retryable INTEGER NOT NULL DEFAULT 0,
    observed TEXT) STRICT;
  CREATE UNIQUE INDEX IF NOT EXISTS ledger_name ON ledger (name) WHERE name IS NOT NULL;
  CREATE INDEX IF NOT EXISTS ledger_open ON ledger (reserved) WHERE state = 'reserved';
  CREATE INDEX IF NOT EXISTS ledger_in_flight ON ledger (fingerprint) WHERE state = 'reserved';
  CREATE INDEX IF NOT EXISTS ledger_reuse ON ledger (digest) WHERE state = 'captured';
  CREATE TABLE IF NOT EXISTS folded (
    id INTEGER PRIMARY KEY CHECK (id = 1), jobs INTEGER NOT NULL, captured INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS meters (
    id TEXT PRIMARY KEY, tokens REAL, refilled INTEGER NOT NULL, open INTEGER NOT NULL, reserved INTEGER NOT NULL,
    captured INTEGER NOT NULL, day TEXT NOT NULL, day_captured INTEGER NOT NULL, month_captured INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL, key_id TEXT NOT NULL, tier TEXT NOT NULL, jobs INTEGER NOT NULL, amount INTEGER NOT NULL,
    PRIMARY KEY (day, key_id, tier)) STRICT, WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS usage_of_keys ON usage (day) WHERE key_id <> '';
  CREATE TABLE IF NOT EXISTS credits (
    id TEXT PRIMARY KEY, amount INTEGER NOT NULL, note TEXT NOT NULL, created INTEGER NOT NULL) STRICT;`

export type Outcome = 'captured' | 'released'
/**
 * `amount` is the captured part of the reservation in micro-dollars, by default all of it. `observed` is for forecasts, `summary` for lists.
 * The next request with the name or Idempotency-Key of a `retryable` job replaces the job.
 */
export type Settlement = {
  outcome: Outcome
  amount?: number
  observed?: Observation | null
  summary?: JobSummary
  retryable?: boolean
}
/**
 * The reservation of a job. `spec` is kept until the settlement, so that a repeated request creates exactly the job whose price was reserved.
 * `reservedAt` is Unix milliseconds.
 */
export type Reservation = {
  job: string
  fingerprint: string
  price: number
  reservedAt: number
  spec: JobSpec | null
}
/** Sums in micro-dollars, and the number of open jobs. */
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

type ReservationRow = Omit<Reservation, 'spec'> & { spec: string | null; retryable: number }

/** The reservation of a job, and whether the next request for the job replaces it; null for an unknown job. */
export function reservationOf(sql: SqlStorage, job: string): (Reservation & { retryable: boolean }) | null {
  const [row] = sql.exec<ReservationRow>(
    'SELECT job, fingerprint, amount AS price, reserved AS reservedAt, spec, retryable FROM ledger WHERE job = ?',
    job,
  )
  if (!row) return null
  const { spec, retryable, ...facts } = row
  return { ...facts, spec: spec === null ? null : JSON.parse(spec), retryable: retryable === 1 }
}

/** Reserves a job's price on all of its meters. Must run in the transaction that checked their limits. */
export function reserve(sql: SqlStorage, spec: JobSpec, metered: MeteredHolder[], isCounted: boolean): void {
  const now = Date.now()
  const { id, name, keyId, token, decision, price, fingerprint, digest } = spec
  sql.exec(
    `INSERT INTO ledger (job, name, key_id, token, meters, tier, amount, state, reserved, fingerprint, digest, spec)
     VALUES (?, ?, ?, ?, ?, ?, ?, 'reserved', ?, ?, ?, ?)`,
    ...[id, name, keyId, token, JSON.stringify(metered.map(({ meter }) => meter.id)), decision.tier, price, now],
    ...[fingerprint, digest, JSON.stringify(spec)],
  )
  for (const each of metered) saveMeter(sql, reserveOn(each, price, now, isCounted))
}

/** Takes a token from every rate-limit bucket. */
export function takeRateTokens(sql: SqlStorage, metered: MeteredHolder[]): void {
  const now = Date.now()
  for (const each of metered) saveMeter(sql, countOn(each, now))
}

/** Resets the age of a reservation, so that it is not released while a repeated request creates its job. */
export function renew(sql: SqlStorage, job: string): void {
  sql.exec("UPDATE ledger SET reserved = ? WHERE job = ? AND state = 'reserved'", Date.now(), job)
}

/** Updates a row's meters: the reservation of `amount` ends with `charged` captured. */
function settleMeters(sql: SqlStorage, meters: string, amount: number, charged: number): void {
  const now = Date.now()
  for (const id of JSON.parse(meters) as string[]) saveMeter(sql, settleOn(meterOf(sql, id), amount, charged, now))
}

/** Limits a charge to whole micro-dollars within the reservation, because a settlement with a wrong amount must not fail forever. */
function boundCharge(job: string, requested: number, reserved: number): number {
  const charged = Math.min(Math.max(0, Math.floor(requested) || 0), reserved)
  if (charged !== requested)
    log('error', 'the amount of a settlement is invalid', { job, requested, reserved, charged })
  return charged
}

/** Settles a reserved job, with meters and usage, in the caller's transaction. False if already settled. */
export function settleOnce(sql: SqlStorage, job: string, settlement: Settlement): boolean {
  const { outcome, amount, observed, summary, retryable } = settlement
  const entry = entryOf(sql, job)
  if (entry?.state !== 'reserved') return false
  const charged = outcome === 'released' ? 0 : boundCharge(job, amount ?? entry.amount, entry.amount)
  const now = Date.now()
  const { meters } = sql
    .exec<{ meters: string }>(
      `UPDATE ledger SET state = ?, charged = ?, settled = ?, observed = ?, summary = ?, retryable = ?, spec = NULL
       WHERE job = ? RETURNING meters`,
      ...[outcome, charged, now, observed ? JSON.stringify(observed) : null],
      ...[summary ? JSON.stringify(summary) : null, Number(retryable ?? false), job],
    )
    .one()
  settleMeters(sql, meters, entry.amount, charged)
  addToOutbox(sql, job)
  if (outcome === 'captured') countUsage(sql, { ...entry, charged }, utcDayOf(now))
  return true
}

/** Removes a reservation for which no job was created. */
export function dropReservation(sql: SqlStorage, job: string): void {
  const [row] = sql.exec<{ meters: string; amount: number }>(
    "DELETE FROM ledger WHERE job = ? AND state = 'reserved' RETURNING meters, amount",
    job,
  )
  if (row) settleMeters(sql, row.meters, row.amount, 0)
}

/** Replaces the stored summary of a settled job. */
export function saveSummary(sql: SqlStorage, job: string, summary: JobSummary): void {
  sql.exec('UPDATE ledger SET summary = ? WHERE job = ? AND summary IS NOT NULL', JSON.stringify(summary), job)
}

/** Deletes a settled and exported row but keeps its charge in the sums. False while the row is still needed. */
export function foldRow(sql: SqlStorage, job: string): boolean {
  const entry = entryOf(sql, job)
  if (!entry) return true
  if (entry.state === 'reserved' || isExporting(sql, job)) return false
  sql.exec('DELETE FROM ledger WHERE job = ?', job)
  sql.exec(
    `INSERT INTO folded VALUES (1, 1, ?)
     ON CONFLICT DO UPDATE SET jobs = jobs + 1, captured = captured + excluded.captured`,
    entry.charged,
  )
  return true
}

function countUsage(sql: SqlStorage, { key_id, tier, charged }: LedgerEntry, day: string): void {
  sql.exec(
    `INSERT INTO usage VALUES (?, ?, ?, 1, ?)
     ON CONFLICT DO UPDATE SET jobs = jobs + 1, amount = amount + excluded.amount`,
    ...[day, key_id, tier, charged],
  )
}

// Every alarm runs this query. Without the index it would read all folded rows.
const OLD_USAGE = "usage INDEXED BY usage_of_keys WHERE key_id <> '' AND day < ?"

/** Folds the usage by key of expired days into one row per day and tier, in the caller's transaction. Daily sums stay equal. */
export function foldOldUsage(sql: SqlStorage): void {
  const old = utcDayOf(Date.now() - USAGE_KEY_DAYS * DAY_MS)
  sql.exec(
    `INSERT INTO usage SELECT day, '', tier, sum(jobs), sum(amount) FROM ${OLD_USAGE}
     GROUP BY day, tier ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs, amount = amount + excluded.amount`,
    old,
  )
  sql.exec(`DELETE FROM ${OLD_USAGE}`, old)
}

/** Adds credit once per id. Returns the credit of the first call with this id. */
export function addCredit(sql: SqlStorage, id: string, amount: number, note: string): { amount: number; note: string } {
  sql.exec('INSERT OR IGNORE INTO credits VALUES (?, ?, ?, ?)', id, amount, note, Date.now())
  return sql.exec<{ amount: number; note: string }>('SELECT amount, note FROM credits WHERE id = ?', id).one()
}

export function sumCredits(sql: SqlStorage): number {
  return sql.exec<{ total: number }>('SELECT coalesce(sum(amount), 0) AS total FROM credits').one().total
}

/** The stored sums. The balance is credits less captures. */
export function sumsOf(sql: SqlStorage): Sums {
  const { captured, reserved, open } = meterOf(sql, 'account')
  return { credited: sumCredits(sql), captured, reserved, open }
}

/** The same sums, computed from rows and folded rows. They must equal the stored sums. */
export function audit(sql: SqlStorage): Sums {
  const rows = sql
    .exec<Omit<Sums, 'credited'>>(
      `SELECT coalesce(sum(charged), 0) + coalesce((SELECT captured FROM folded), 0) AS captured,
        coalesce(sum(iif(state = 'reserved', amount, 0)), 0) AS reserved, coalesce(sum(state = 'reserved'), 0) AS open
       FROM ledger`,
    )
    .one()
  return { credited: sumCredits(sql), ...rows }
}

/** Captured jobs and amounts by UTC day, key and tier, oldest first. Both days are inclusive. */
export const selectUsageBetween = (sql: SqlStorage, from: string, to: string): UsageRow[] =>
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

/**
 * Jobs by admission, newest first: all, or those before the job `after`. Settled jobs as summaries, open jobs as specs. Null if `after` is
 * unknown.
 */
export function selectJobsBefore(
  sql: SqlStorage,
  limit: number,
  after: string | null,
): (JobSummary | JobSpec)[] | null {
  const [last] = sql.exec<{ rowid: number }>('SELECT rowid FROM ledger WHERE job = ?', after).toArray()
  if (after !== null && !last) return null
  const rows = sql.exec<{ listed: string }>(
    `SELECT coalesce(summary, spec) AS listed FROM ledger
     WHERE rowid < ? AND coalesce(summary, spec) IS NOT NULL ORDER BY rowid DESC LIMIT ?`,
    ...[last?.rowid ?? Number.MAX_SAFE_INTEGER, limit],
  )
  return rows.toArray().map(({ listed }) => JSON.parse(listed))
}

/** The id of the job with this name; null if there is none. */
export const findJobByName = (sql: SqlStorage, name: string): string | null =>
  sql.exec<{ job: string }>('SELECT job FROM ledger WHERE name = ?', name).toArray()[0]?.job ?? null

/** The newest captured job with equal images, if all of them are still stored; null otherwise. */
export function findReusableJob(sql: SqlStorage, digest: string): string | null {
  const [row] = sql.exec<{ job: string; summary: string | null }>(
    "SELECT job, summary FROM ledger WHERE digest = ? AND state = 'captured' ORDER BY rowid DESC LIMIT 1",
    digest,
  )
  const summary = row?.summary ? (JSON.parse(row.summary) as JobSummary) : null
  return summary?.state === 'succeeded' && summary.images.every(isAvailable) ? row!.job : null
}

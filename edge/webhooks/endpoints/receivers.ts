// The receivers of an account and their circuit breakers, over the SQLite of WebhookDO. A receiver is a registered endpoint, or the host of
// per-request webhook URLs.

import { DAY_MS } from '../../platform/units.ts'
import { FAILURES_TO_OPEN, LONGEST_OPEN_MS } from './breaker.ts'

export const RECEIVER_SCHEMA = `
  CREATE TABLE IF NOT EXISTS receivers (
    id TEXT PRIMARY KEY, host TEXT NOT NULL, failures INTEGER NOT NULL DEFAULT 0, openings INTEGER NOT NULL DEFAULT 0,
    open_until INTEGER NOT NULL DEFAULT 0, paused_until INTEGER NOT NULL DEFAULT 0, next_at INTEGER, seen INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS receivers_next ON receivers (next_at) WHERE next_at IS NOT NULL;
  CREATE INDEX IF NOT EXISTS receivers_seen ON receivers (seen);`

/** The retention of idle receivers. */
const KEEP_MS = DAY_MS

type Receiver = { id: string; host: string; failures: number; openings: number; open_until: number }
/** Receivers and hosts at their concurrency limit. */
export type BusyReceivers = { receivers: readonly string[]; hosts: readonly string[] }

/** Registers a receiver, or updates its host. */
export function saveReceiver(sql: SqlStorage, id: string, host: string): void {
  sql.exec(
    `INSERT INTO receivers (id, host, seen) VALUES (?, ?, ?)
     ON CONFLICT (id) DO UPDATE SET host = excluded.host, seen = excluded.seen`,
    ...[id, host, Date.now()],
  )
}

export const deleteReceiver = (sql: SqlStorage, id: string) => sql.exec('DELETE FROM receivers WHERE id = ?', id)

/** Recomputes the time of a receiver's next attempt. Call after every change to its deliveries or circuit breaker. */
export function refreshReceiver(sql: SqlStorage, id: string): void {
  sql.exec(
    `UPDATE receivers SET next_at = max(open_until, paused_until, (SELECT max(due, leased_until) FROM deliveries
       WHERE receiver = ?1 AND state = 'pending' ORDER BY max(due, leased_until) LIMIT 1)) WHERE id = ?1`,
    id,
  )
}

/** Returns the receiver whose next attempt has been due the longest at `now`, excluding busy ones. */
export const selectNextReceiver = (sql: SqlStorage, now: number, { receivers, hosts }: BusyReceivers) =>
  sql
    .exec<Pick<Receiver, 'id' | 'host'>>(
      `SELECT id, host FROM receivers WHERE next_at <= ?1 AND id NOT IN (SELECT value FROM json_each(?2))
       AND host NOT IN (SELECT value FROM json_each(?3)) ORDER BY next_at LIMIT 1`,
      ...[now, JSON.stringify(receivers), JSON.stringify(hosts)],
    )
    .toArray()[0] ?? null

/** Returns the receivers among `ids` whose last attempt failed. */
export const selectFailingReceivers = (sql: SqlStorage, ids: readonly string[]): string[] =>
  sql
    .exec<{ id: string }>(
      'SELECT id FROM receivers WHERE failures > 0 AND id IN (SELECT value FROM json_each(?))',
      JSON.stringify(ids),
    )
    .toArray()
    .map(({ id }) => id)

/** Returns the time of the next attempt in Unix milliseconds, or null if no delivery is pending. */
export const findNextAttempt = (sql: SqlStorage): number | null =>
  sql.exec<{ at: number | null }>('SELECT min(next_at) AS at FROM receivers WHERE next_at IS NOT NULL').one().at

/** Records a success and closes the circuit breaker. */
export const recordSuccess = (sql: SqlStorage, id: string) =>
  sql.exec('UPDATE receivers SET failures = 0, openings = 0, open_until = 0 WHERE id = ?', id)

/**
 * Records a failure. The fifth consecutive failure opens the circuit breaker for `breakerMs`; each failed trial doubles that time, up to ten
 * minutes. Failures of attempts that started before it opened do not extend it. `pauseMs` is the receiver's Retry-After.
 */
export function recordFailure(
  sql: SqlStorage,
  id: string,
  { breakerMs, pauseMs }: Record<'breakerMs' | 'pauseMs', number>,
) {
  const receiver = sql.exec<Receiver>('SELECT * FROM receivers WHERE id = ?', id).toArray()[0]
  if (!receiver) return
  const now = Date.now()
  const failures = receiver.failures + 1
  const opens = failures >= FAILURES_TO_OPEN && receiver.open_until <= now
  const openings = receiver.openings + (opens ? 1 : 0)
  const openUntil = opens ? Math.round(now + openMs(openings, breakerMs)) : receiver.open_until
  sql.exec(
    'UPDATE receivers SET failures = ?, openings = ?, open_until = ?, paused_until = max(paused_until, ?) WHERE id = ?',
    ...[failures, openings, openUntil, pauseMs > 0 ? Math.round(now + pauseMs) : 0, id],
  )
}

/** Returns how long the circuit breaker stays open after `openings` consecutive openings. */
export const openMs = (openings: number, breakerMs: number) =>
  Math.min(breakerMs * 2 ** (openings - 1), LONGEST_OPEN_MS)

/** Whether the circuit breaker of a receiver is open, or the receiver has requested a pause. */
export const isPaused = (sql: SqlStorage, id: string): boolean =>
  sql.exec('SELECT 1 FROM receivers WHERE id = ? AND max(open_until, paused_until) > ?', id, Date.now()).toArray()
    .length > 0

/** Makes an open circuit breaker admit one trial immediately, at the owner's request. */
export const admitTrial = (sql: SqlStorage, id: string) =>
  sql.exec('UPDATE receivers SET open_until = 0 WHERE id = ?', id)

/** Resets the circuit breaker of a receiver after a change by its owner. */
export const resetReceiver = (sql: SqlStorage, id: string) =>
  sql.exec('UPDATE receivers SET failures = 0, openings = 0, open_until = 0, paused_until = 0 WHERE id = ?', id)

/** Deletes receivers that have no pending deliveries and have been idle for a day. */
export function pruneReceivers(sql: SqlStorage): void {
  const now = Date.now()
  sql.exec(
    'DELETE FROM receivers WHERE seen < ? AND next_at IS NULL AND max(open_until, paused_until) < ?',
    ...[now - KEEP_MS, now],
  )
}

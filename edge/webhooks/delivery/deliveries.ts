// Events, deliveries and the attempt log, over the SQLite of WebhookDO. A delivery is one event for one endpoint.

import { hostOf } from '../endpoints/address.ts'
import { DEFAULT_ENDPOINT } from '../endpoints/endpoints.ts'
import { refreshReceiver, saveReceiver } from '../endpoints/receivers.ts'
import type { Attempt, Delivery, DeliveryState, DeliveryView, Target, WebhookEvent } from './delivery.ts'
import type { Answer } from './schedule.ts'

const TABLES = `
  CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY, type TEXT NOT NULL, body TEXT NOT NULL, origin TEXT NOT NULL, created INTEGER NOT NULL) STRICT;
  CREATE INDEX IF NOT EXISTS events_created ON events (created);
  CREATE TABLE IF NOT EXISTS deliveries (
    event TEXT NOT NULL, endpoint TEXT NOT NULL, url TEXT, state TEXT NOT NULL, failures INTEGER NOT NULL, due INTEGER NOT NULL,
    lease INTEGER NOT NULL, leased_until INTEGER NOT NULL, receiver TEXT NOT NULL DEFAULT '', started INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (event, endpoint)) STRICT;
  CREATE TABLE IF NOT EXISTS attempts (
    seq INTEGER PRIMARY KEY, event TEXT NOT NULL, endpoint TEXT NOT NULL, at INTEGER NOT NULL, status INTEGER, error TEXT,
    milliseconds INTEGER NOT NULL) STRICT;
  CREATE INDEX IF NOT EXISTS attempts_of ON attempts (event, endpoint);`
const PENDING_INDEXES = `
  CREATE INDEX IF NOT EXISTS deliveries_free ON deliveries (receiver, max(due, leased_until)) WHERE state = 'pending';
  CREATE INDEX IF NOT EXISTS deliveries_started ON deliveries (started) WHERE state = 'pending';`

export function createDeliveryTables(sql: SqlStorage): void {
  sql.exec(TABLES)
  addReceivers(sql)
  sql.exec(PENDING_INDEXES)
}

/** Migrates deliveries of an older version, so that pending ones continue. */
function addReceivers(sql: SqlStorage): void {
  if (sql.exec("SELECT 1 FROM pragma_table_info('deliveries') WHERE name = 'receiver'").toArray().length > 0) return
  sql.exec("ALTER TABLE deliveries ADD COLUMN receiver TEXT NOT NULL DEFAULT ''")
  sql.exec('ALTER TABLE deliveries ADD COLUMN started INTEGER NOT NULL DEFAULT 0')
  sql.exec('DROP INDEX IF EXISTS deliveries_state')
  const pending = sql
    .exec<{ event: string; endpoint: string; url: string | null }>(
      `SELECT event, endpoint, coalesce(deliveries.url, endpoints.url) AS url FROM deliveries
       LEFT JOIN endpoints ON id = endpoint WHERE state = 'pending'`,
    )
    .toArray()
  for (const { event, endpoint, url } of pending) {
    // A delivery without a URL belongs to a deleted endpoint. Its next attempt drops it, so the choice of the receiver has no effect.
    const address = url ?? 'https://deleted.invalid'
    const receiver = receiverOf(endpoint, address)
    sql.exec(
      'UPDATE deliveries SET receiver = ?, started = ? WHERE event = ? AND endpoint = ?',
      ...[receiver, Date.now(), event, endpoint],
    )
    saveReceiver(sql, receiver, hostOf(address))
    refreshReceiver(sql, receiver)
  }
}

/** Returns the receiver of a delivery: the endpoint, or the host for a URL given only in a request. */
const receiverOf = (endpoint: string, url: string) => (endpoint === DEFAULT_ENDPOINT ? hostOf(url) : endpoint)

/**
 * Stores an event. Returns false if it already exists. `created` is unique within the account, so that it can serve as a cursor.
 */
export function insertEvent(sql: SqlStorage, { id, type, body, origin }: WebhookEvent): boolean {
  const { created } = sql
    .exec<{ created: number }>(
      'SELECT max(?, coalesce((SELECT max(created) FROM events), 0) + 1) AS created',
      Date.now(),
    )
    .one()
  const values = [id, type, body, origin, created]
  return sql.exec('INSERT INTO events VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING', ...values).rowsWritten > 0
}

export const findEvent = (sql: SqlStorage, id: string): WebhookEvent | null =>
  sql.exec<WebhookEvent>('SELECT id, type, body, origin FROM events WHERE id = ?', id).toArray()[0] ?? null

/** Inserts a pending delivery unless it already exists. */
export function insertDelivery(sql: SqlStorage, event: string, { endpoint, url, named }: Target): void {
  const [now, receiver] = [Date.now(), receiverOf(endpoint, url)]
  sql.exec(
    "INSERT INTO deliveries VALUES (?, ?, ?, 'pending', 0, ?, 0, 0, ?, ?) ON CONFLICT DO NOTHING",
    ...[event, endpoint, named ? url : null, now, receiver, now],
  )
  saveReceiver(sql, receiver, hostOf(url))
  refreshReceiver(sql, receiver)
}

export const findDelivery = (sql: SqlStorage, event: string, endpoint: string): Delivery | null =>
  sql.exec<Delivery>('SELECT * FROM deliveries WHERE event = ? AND endpoint = ?', event, endpoint).toArray()[0] ?? null

/** Returns the next due delivery of a receiver, or null if none is due at `now`. */
export const selectNextDelivery = (sql: SqlStorage, receiver: string, now: number): Delivery | null =>
  sql
    .exec<Delivery>(
      `SELECT * FROM deliveries WHERE receiver = ? AND state = 'pending' AND max(due, leased_until) <= ?
       ORDER BY max(due, leased_until) LIMIT 1`,
      ...[receiver, now],
    )
    .toArray()[0] ?? null

/** Updates the mutable fields of a delivery. */
export function saveDelivery(sql: SqlStorage, delivery: Delivery): void {
  const { event, endpoint, state, failures, due, lease, leased_until, receiver, started } = delivery
  sql.exec(
    `UPDATE deliveries SET state = ?, failures = ?, due = ?, lease = ?, leased_until = ?, started = ?
     WHERE event = ? AND endpoint = ?`,
    ...[state, failures, due, lease, leased_until, started, event, endpoint],
  )
  refreshReceiver(sql, receiver)
}

export function logAttempt(sql: SqlStorage, event: string, endpoint: string, answer: Answer, milliseconds: number) {
  const { status, error } = 'status' in answer ? { ...answer, error: null } : { ...answer, status: null }
  sql.exec(
    'INSERT INTO attempts (event, endpoint, at, status, error, milliseconds) VALUES (?, ?, ?, ?, ?, ?)',
    ...[event, endpoint, Date.now(), status, error, Math.round(milliseconds)],
  )
}

/** Drops the pending deliveries of an endpoint. */
export function dropPending(sql: SqlStorage, endpoint: string): void {
  sql.exec("UPDATE deliveries SET state = 'dropped' WHERE receiver = ? AND state = 'pending'", endpoint)
  refreshReceiver(sql, endpoint)
}

/** The earliest time of the next attempt, considering the schedule, the circuit breaker and the receiver's Retry-After. */
const NEXT_ATTEMPT = 'max(due, coalesce(open_until, 0), coalesce(paused_until, 0))'

export type Page = { limit: number; before?: number | undefined; state?: DeliveryState | undefined }

/** Lists the deliveries of an endpoint with their attempts, newest event first. `before` is Unix milliseconds. */
export function listDeliveries(sql: SqlStorage, endpoint: string, { limit, before, state }: Page): DeliveryView[] {
  const rows = sql
    .exec<Omit<DeliveryView, 'attempts'>>(
      `SELECT event, url, state, ${NEXT_ATTEMPT} AS due, type, created
       FROM deliveries JOIN events ON events.id = event LEFT JOIN receivers ON receivers.id = receiver
       WHERE endpoint = ? AND created < ? AND (? IS NULL OR state = ?) ORDER BY created DESC LIMIT ?`,
      ...[endpoint, before ?? Number.MAX_SAFE_INTEGER, state ?? null, state ?? null, limit],
    )
    .toArray()
  return rows.map((row) => ({ ...row, attempts: attemptsOf(sql, row.event, endpoint) }))
}

/** Lists the deliveries of an event with their endpoints and attempts. */
export function deliveriesOfEvent(sql: SqlStorage, event: string): (DeliveryView & { endpoint: string })[] {
  const rows = sql
    .exec<Omit<DeliveryView, 'attempts'> & { endpoint: string }>(
      `SELECT event, endpoint, url, state, ${NEXT_ATTEMPT} AS due, type, created
       FROM deliveries JOIN events ON events.id = event LEFT JOIN receivers ON receivers.id = receiver
       WHERE event = ? ORDER BY endpoint`,
      event,
    )
    .toArray()
  return rows.map((row) => ({ ...row, attempts: attemptsOf(sql, event, row.endpoint) }))
}

const attemptsOf = (sql: SqlStorage, event: string, endpoint: string): Attempt[] =>
  sql
    .exec<Attempt>(
      'SELECT at, status, error, milliseconds FROM attempts WHERE event = ? AND endpoint = ? ORDER BY seq',
      ...[event, endpoint],
    )
    .toArray()

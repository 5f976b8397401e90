// Events, their deliveries and the log of every attempt, over the SQLite of WebhookDO. A delivery is one event for one endpoint.
import { DEFAULT_ENDPOINT, type EventType } from './webhook-endpoints.ts'
import type { Answer } from './webhook-schedule.ts'

export const DELIVERY_SCHEMA = `
  CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY, type TEXT NOT NULL, body TEXT NOT NULL, origin TEXT NOT NULL, created INTEGER NOT NULL) STRICT;
  CREATE INDEX IF NOT EXISTS events_created ON events (created);
  CREATE TABLE IF NOT EXISTS deliveries (
    event TEXT NOT NULL, endpoint TEXT NOT NULL, url TEXT, state TEXT NOT NULL, failures INTEGER NOT NULL, due INTEGER NOT NULL,
    lease INTEGER NOT NULL, leased_until INTEGER NOT NULL, PRIMARY KEY (event, endpoint)) STRICT;
  CREATE INDEX IF NOT EXISTS deliveries_state ON deliveries (state, due);
  CREATE TABLE IF NOT EXISTS attempts (
    seq INTEGER PRIMARY KEY, event TEXT NOT NULL, endpoint TEXT NOT NULL, at INTEGER NOT NULL, status INTEGER, error TEXT,
    milliseconds INTEGER NOT NULL) STRICT;
  CREATE INDEX IF NOT EXISTS attempts_of ON attempts (event, endpoint)`

/** `exhausted`: every attempt of the schedule failed. `refused`: 410, or an address we must not call. `dropped`: the endpoint was disabled or deleted. */
export const DELIVERY_STATES = ['pending', 'delivered', 'exhausted', 'refused', 'dropped'] as const
export type DeliveryState = (typeof DELIVERY_STATES)[number]

/** `body` is JSON; `origin` is where its links point. */
export type WebhookEvent = { id: string; type: EventType; body: string; origin: string }
export type Delivery = {
  event: string
  endpoint: string
  /** The address of a single request; null means the endpoint's own. */
  url: string | null
  state: DeliveryState
  /** Failed attempts since the first, or since the replay. */
  failures: number
  due: number
  /** The attempt that may decide; a later one takes over once `leased_until` has passed. */
  lease: number
  leased_until: number
}
export type Attempt = { at: number; status: number | null; error: string | null; milliseconds: number }
export type DeliveryView = Pick<Delivery, 'event' | 'url' | 'state' | 'due'> & {
  type: EventType
  created: number
  attempts: Attempt[]
}

/** Stores an event once; the same id again changes nothing. */
export function insertEvent(sql: SqlStorage, { id, type, body, origin }: WebhookEvent): void {
  sql.exec('INSERT INTO events VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING', id, type, body, origin, Date.now())
}

export const findEvent = (sql: SqlStorage, id: string): WebhookEvent | null =>
  sql.exec<WebhookEvent>('SELECT id, type, body, origin FROM events WHERE id = ?', id).toArray()[0] ?? null

/** Plans a delivery unless it is planned already. */
export function insertDelivery(sql: SqlStorage, event: string, endpoint: string, url: string | null = null): void {
  sql.exec(
    "INSERT INTO deliveries VALUES (?, ?, ?, 'pending', 0, ?, 0, 0) ON CONFLICT DO NOTHING",
    ...[event, endpoint, url, Date.now()],
  )
}

export const findDelivery = (sql: SqlStorage, event: string, endpoint: string): Delivery | null =>
  sql.exec<Delivery>('SELECT * FROM deliveries WHERE event = ? AND endpoint = ?', event, endpoint).toArray()[0] ?? null

/** Writes what may change of a delivery. */
export function saveDelivery(
  sql: SqlStorage,
  { event, endpoint, state, failures, due, lease, leased_until }: Delivery,
) {
  sql.exec(
    'UPDATE deliveries SET state = ?, failures = ?, due = ?, lease = ?, leased_until = ? WHERE event = ? AND endpoint = ?',
    ...[state, failures, due, lease, leased_until, event, endpoint],
  )
}

/** Puts a delivery at the start of its schedule again, under the same `webhook-id`. */
export function restartDelivery(sql: SqlStorage, event: string, endpoint: string): void {
  insertDelivery(sql, event, endpoint)
  sql.exec(
    "UPDATE deliveries SET state = 'pending', failures = 0, due = ?, leased_until = 0 WHERE event = ? AND endpoint = ?",
    ...[Date.now(), event, endpoint],
  )
}

export function logAttempt(sql: SqlStorage, event: string, endpoint: string, answer: Answer, milliseconds: number) {
  const { status, error } = 'status' in answer ? { ...answer, error: null } : { ...answer, status: null }
  sql.exec(
    'INSERT INTO attempts (event, endpoint, at, status, error, milliseconds) VALUES (?, ?, ?, ?, ?, ?)',
    ...[event, endpoint, Date.now(), status, error, Math.round(milliseconds)],
  )
}

/** Deliveries of an endpoint that stopped being pending because the endpoint no longer takes any. */
export const dropPending = (sql: SqlStorage, endpoint: string) =>
  sql.exec("UPDATE deliveries SET state = 'dropped' WHERE endpoint = ? AND state = 'pending'", endpoint)

export type Page = { limit: number; before?: number | undefined; state?: DeliveryState | undefined }

/** Deliveries of an endpoint, newest event first, each with every attempt. `before` is Unix milliseconds. */
export function listDeliveries(sql: SqlStorage, endpoint: string, { limit, before, state }: Page): DeliveryView[] {
  const rows = sql
    .exec<Omit<DeliveryView, 'attempts'>>(
      `SELECT event, url, state, due, type, created FROM deliveries JOIN events ON id = event
       WHERE endpoint = ? AND created < ? AND (? IS NULL OR state = ?) ORDER BY created DESC, event LIMIT ?`,
      ...[endpoint, before ?? Number.MAX_SAFE_INTEGER, state ?? null, state ?? null, limit],
    )
    .toArray()
  return rows.map((row) => ({ ...row, attempts: attemptsOf(sql, row.event, endpoint) }))
}

/** The deliveries of one event, each with its endpoint and every attempt. */
export function deliveriesOfEvent(sql: SqlStorage, event: string): (DeliveryView & { endpoint: string })[] {
  const rows = sql
    .exec<Omit<DeliveryView, 'attempts'> & { endpoint: string }>(
      `SELECT event, endpoint, url, state, due, type, created FROM deliveries JOIN events ON id = event
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

export type Range = { since: number; until: number; types: readonly EventType[]; all: boolean; limit: number }

/** Ids of events in a span of Unix milliseconds that an endpoint takes, oldest first; only those it has not got, unless `all`. */
export function eventsToReplay(sql: SqlStorage, endpoint: string, { since, until, types, all, limit }: Range) {
  return sql
    .exec<{ id: string; created: number }>(
      `SELECT id, created FROM events WHERE created >= ?1 AND created < ?2
       AND type IN (SELECT value FROM json_each(?3)) AND (?4 OR NOT EXISTS
         (SELECT 1 FROM deliveries WHERE event = id AND endpoint = ?5 AND state IN ('delivered', 'pending')))
       AND (?5 <> '${DEFAULT_ENDPOINT}' OR EXISTS (SELECT 1 FROM deliveries WHERE event = id AND endpoint = ?5))
       ORDER BY created, id LIMIT ?6`,
      ...[since, until, JSON.stringify(types), all ? 1 : 0, endpoint, limit],
    )
    .toArray()
}

const PENDING = "deliveries LEFT JOIN endpoints ON id = endpoint WHERE state = 'pending'"
/** When a delivery may be tried: it is due, no attempt holds it, and its receiver does not ask for quiet. */
const FREE = 'max(due, leased_until, coalesce(paused_until, 0))'

/** Pending deliveries that could have been tried before `moment`: the queue must have lost them. */
export const overdue = (sql: SqlStorage, moment: number, limit: number) =>
  sql
    .exec<{ event: string; endpoint: string }>(
      `SELECT event, endpoint FROM ${PENDING} AND due < ?1 AND ${FREE} < ?1 ORDER BY due LIMIT ?2`,
      ...[moment, limit],
    )
    .toArray()

/** When the next pending delivery may be tried, in Unix milliseconds; null when there is none. */
export const nextDue = (sql: SqlStorage): number | null =>
  sql.exec<{ at: number | null }>(`SELECT min(${FREE}) AS at FROM ${PENDING}`).one().at

export const oldestEvent = (sql: SqlStorage): number | null =>
  sql.exec<{ at: number | null }>('SELECT min(created) AS at FROM events').one().at

/** Forgets events from before `moment`, with their log. */
export function forgetEvents(sql: SqlStorage, moment: number): void {
  for (const table of ['attempts', 'deliveries'])
    sql.exec(`DELETE FROM ${table} WHERE event IN (SELECT id FROM events WHERE created < ?)`, moment)
  sql.exec('DELETE FROM events WHERE created < ?', moment)
}

// How long an account's webhooks are kept, what ends earlier, and what an account takes along, over the SQLite of WebhookDO.
import { type DeliveryView, deliveriesOfEvent } from './webhook-deliveries.ts'
import type { EventType } from './webhook-endpoints.ts'
import { refreshReceiver } from './webhook-receivers.ts'

/** Events, their deliveries and the log are deleted after 30 days. */
const KEEP_MS = 30 * 24 * 3_600_000

/** An event as it is exported: `data` is what its payload says, without links. */
export type ExportedEvent = {
  id: string
  type: EventType
  created: number
  /** What the event says, as JSON. */
  data: { id?: string; images?: object[] }
  deliveries: (DeliveryView & { endpoint: string })[]
}

/** When the oldest event is to be deleted, in Unix milliseconds; null without events. */
export function nextExpiry(sql: SqlStorage): number | null {
  const { at } = sql.exec<{ at: number | null }>('SELECT min(created) AS at FROM events').one()
  return at === null ? null : at + KEEP_MS
}

/** Deletes what is older than 30 days. */
export function deleteExpired(sql: SqlStorage): void {
  const moment = Date.now() - KEEP_MS
  for (const table of ['attempts', 'deliveries'])
    sql.exec(`DELETE FROM ${table} WHERE event IN (SELECT id FROM events WHERE created <= ?)`, moment)
  sql.exec('DELETE FROM events WHERE created <= ?', moment)
}

/** Deletes an event with its deliveries and their log. */
export function deleteEvent(sql: SqlStorage, id: string): void {
  const receivers = sql.exec<{ receiver: string }>('SELECT receiver FROM deliveries WHERE event = ?', id).toArray()
  for (const table of ['attempts', 'deliveries']) sql.exec(`DELETE FROM ${table} WHERE event = ?`, id)
  sql.exec('DELETE FROM events WHERE id = ?', id)
  for (const { receiver } of receivers) refreshReceiver(sql, receiver)
}

/** When the oldest pending delivery has had its time, in Unix milliseconds; null when none is pending. */
export function nextGivenUp(sql: SqlStorage, lifetimeMs: number): number | null {
  const { at } = sql
    .exec<{ at: number | null }>("SELECT min(started) AS at FROM deliveries WHERE state = 'pending'")
    .one()
  return at === null ? null : at + lifetimeMs
}

/** Ends deliveries that waited for a receiver's breaker all their time. Returns how many, by endpoint. */
export function giveUpOverdue(sql: SqlStorage, lifetimeMs: number): Map<string, number> {
  const ended = sql
    .exec<{ endpoint: string; receiver: string }>(
      "UPDATE deliveries SET state = 'exhausted' WHERE state = 'pending' AND started <= ? RETURNING endpoint, receiver",
      Date.now() - lifetimeMs,
    )
    .toArray()
  for (const receiver of new Set(ended.map(({ receiver }) => receiver))) refreshReceiver(sql, receiver)
  const byEndpoint = Map.groupBy(ended, ({ endpoint }) => endpoint)
  return new Map([...byEndpoint].map(([endpoint, rows]) => [endpoint, rows.length]))
}

/** Events after the time `after` (Unix milliseconds), oldest first, each with its deliveries. */
export function exportEvents(sql: SqlStorage, after: number, limit: number): ExportedEvent[] {
  const rows = sql
    .exec<Omit<ExportedEvent, 'data' | 'deliveries'> & { body: string }>(
      'SELECT id, type, created, body FROM events WHERE created > ? ORDER BY created LIMIT ?',
      ...[after, limit],
    )
    .toArray()
  return rows.map(({ body, ...event }) => ({
    ...event,
    data: dataOf(body),
    deliveries: deliveriesOfEvent(sql, event.id),
  }))
}

type Payload = { data: { id?: string; images?: { key: string }[] } }

/** The data of a stored payload. Keys of our storage are internal. */
function dataOf(body: string): ExportedEvent['data'] {
  const { data } = JSON.parse(body) as Payload
  return data.images ? { ...data, images: data.images.map(({ key: _, ...image }) => image) } : data
}

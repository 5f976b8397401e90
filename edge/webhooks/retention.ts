// Retention, expiry and export of an account's webhooks, over the SQLite of WebhookDO.
import { DAY_MS } from '../platform/units.ts'
import { deliveriesOfEvent } from './delivery/deliveries.ts'
import type { DeliveryView } from './delivery/delivery.ts'
import type { EventType } from './endpoints/event-types.ts'
import { refreshReceiver } from './endpoints/receivers.ts'

/** Events, their deliveries and the log are deleted after 30 days. */
const KEEP_MS = 30 * DAY_MS

/** An exported event. */
export type ExportedEvent = {
  id: string
  type: EventType
  created: number
  /** The data of the payload, without links. */
  data: { id?: string; images?: object[] }
  deliveries: (DeliveryView & { endpoint: string })[]
}

/** Returns the expiry of the oldest event in Unix milliseconds, or null if there are no events. */
export function findNextExpiry(sql: SqlStorage): number | null {
  const { at } = sql.exec<{ at: number | null }>('SELECT min(created) AS at FROM events').one()
  return at === null ? null : at + KEEP_MS
}

/** Deletes events older than 30 days, with their deliveries and attempts. */
export function deleteExpired(sql: SqlStorage): void {
  const cutoff = Date.now() - KEEP_MS
  for (const table of ['attempts', 'deliveries'])
    sql.exec(`DELETE FROM ${table} WHERE event IN (SELECT id FROM events WHERE created <= ?)`, cutoff)
  sql.exec('DELETE FROM events WHERE created <= ?', cutoff)
}

/** Deletes an event with its deliveries and attempts. */
export function deleteEvent(sql: SqlStorage, id: string): void {
  const receivers = sql.exec<{ receiver: string }>('SELECT receiver FROM deliveries WHERE event = ?', id).toArray()
  for (const table of ['attempts', 'deliveries']) sql.exec(`DELETE FROM ${table} WHERE event = ?`, id)
  sql.exec('DELETE FROM events WHERE id = ?', id)
  for (const { receiver } of receivers) refreshReceiver(sql, receiver)
}

/** Returns the time at which the oldest pending delivery is given up, in Unix milliseconds, or null if none is pending. */
export function findNextGivenUp(sql: SqlStorage, lifetimeMs: number): number | null {
  const { at } = sql
    .exec<{ at: number | null }>("SELECT min(started) AS at FROM deliveries WHERE state = 'pending'")
    .one()
  return at === null ? null : at + lifetimeMs
}

/** Gives up deliveries that have been pending for their whole lifetime. Returns their number by endpoint. */
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

/** Returns events after the time `after` (Unix milliseconds) with their deliveries, oldest first. */
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

/** Returns the data of a stored payload, without the internal R2 keys. */
function dataOf(body: string): ExportedEvent['data'] {
  const { data } = JSON.parse(body) as Payload
  return data.images ? { ...data, images: data.images.map(({ key: _, ...image }) => image) } : data
}

// The receivers of an account and the keys that sign what they get, over the SQLite of WebhookDO. `default` stands for the addresses
// that single requests name: it has keys, and no row of its own.
import type { SigningKey } from './webhook-signature.ts'

export const ENDPOINT_SCHEMA = `
  CREATE TABLE IF NOT EXISTS endpoints (
    id TEXT PRIMARY KEY, url TEXT NOT NULL, events TEXT NOT NULL, description TEXT NOT NULL, disabled TEXT,
    paused_until INTEGER NOT NULL DEFAULT 0, created INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS signing_keys (
    endpoint TEXT NOT NULL, scheme TEXT NOT NULL, secret TEXT NOT NULL, shown TEXT NOT NULL, created INTEGER NOT NULL,
    expires INTEGER) STRICT`

export const EVENT_TYPES = ['job.succeeded', 'job.failed', 'job.canceled'] as const
export const DEFAULT_ENDPOINT = 'default'
export const MAX_ENDPOINTS = 20

export type EventType = (typeof EVENT_TYPES)[number] | 'webhook.test'
/** Who disabled an endpoint: its owner, or the receiver by answering 410. */
export type Disabled = 'by_owner' | 'gone'
export type Endpoint = {
  id: string
  url: string
  events: EventType[]
  description: string
  disabled: Disabled | null
  /** Unix milliseconds until which the receiver asked for quiet. */
  paused_until: number
  created: number
}
export type EndpointFields = Pick<Endpoint, 'url' | 'events' | 'description' | 'disabled'>
/** A key as the API lists it: without what signs. */
export type KeyView = Pick<SigningKey, 'scheme' | 'shown'> & { created: number; expires: number | null }

type Row = Omit<Endpoint, 'events'> & { events: string }

export const newEndpointId = () => `wh_${crypto.getRandomValues(new Uint8Array(12)).toHex()}`

export function listEndpoints(sql: SqlStorage): Endpoint[] {
  const rows = sql.exec<Row>('SELECT * FROM endpoints ORDER BY created, id').toArray()
  return rows.map((row) => ({ ...row, events: JSON.parse(row.events) }))
}

export const findEndpoint = (sql: SqlStorage, id: string): Endpoint | null =>
  listEndpoints(sql).find((endpoint) => endpoint.id === id) ?? null

export function insertEndpoint(sql: SqlStorage, id: string, fields: EndpointFields): void {
  const { url, events, description, disabled } = fields
  sql.exec(
    'INSERT INTO endpoints (id, url, events, description, disabled, created) VALUES (?, ?, ?, ?, ?, ?)',
    ...[id, url, JSON.stringify(events), description, disabled, Date.now()],
  )
}

export function updateEndpoint(sql: SqlStorage, id: string, fields: EndpointFields): void {
  const { url, events, description, disabled } = fields
  sql.exec(
    'UPDATE endpoints SET url = ?, events = ?, description = ?, disabled = ?, paused_until = 0 WHERE id = ?',
    ...[url, JSON.stringify(events), description, disabled, id],
  )
}

export function deleteEndpoint(sql: SqlStorage, id: string): boolean {
  sql.exec('DELETE FROM signing_keys WHERE endpoint = ?', id)
  return sql.exec('DELETE FROM endpoints WHERE id = ?', id).rowsWritten > 0
}

export const disableEndpoint = (sql: SqlStorage, id: string, reason: Disabled) =>
  sql.exec('UPDATE endpoints SET disabled = ? WHERE id = ?', reason, id)

export const pauseEndpoint = (sql: SqlStorage, id: string, until: number) =>
  sql.exec('UPDATE endpoints SET paused_until = max(paused_until, ?) WHERE id = ?', until, id)

/** Keys that sign now, newest first: one, or two during a rotation. */
export function liveKeys(sql: SqlStorage, endpoint: string): (SigningKey & KeyView)[] {
  return sql
    .exec<SigningKey & KeyView>(
      `SELECT scheme, secret, shown, created, expires FROM signing_keys
       WHERE endpoint = ? AND (expires IS NULL OR expires > ?) ORDER BY rowid DESC`,
      ...[endpoint, Date.now()],
    )
    .toArray()
}

/** Makes `key` the endpoint's key. The one before it signs beside it for `overlapMs`; any older one ends at once. */
export function rotateKey(sql: SqlStorage, endpoint: string, key: SigningKey, overlapMs: number): void {
  const now = Date.now()
  sql.exec(
    `DELETE FROM signing_keys WHERE endpoint = ?1
     AND rowid < (SELECT max(rowid) FROM signing_keys WHERE endpoint = ?1)`,
    endpoint,
  )
  sql.exec('UPDATE signing_keys SET expires = ? WHERE endpoint = ?', now + overlapMs, endpoint)
  sql.exec(
    'INSERT INTO signing_keys VALUES (?, ?, ?, ?, ?, NULL)',
    ...[endpoint, key.scheme, key.secret, key.shown, now],
  )
}

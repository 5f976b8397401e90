// The webhook endpoints of an account, over the SQLite of WebhookDO. `default` is the endpoint for per-request webhook URLs: it has keys but
// no row.

import { hostOf, normalizeAddress } from './address.ts'
import type { EventType } from './event-types.ts'

export const ENDPOINT_SCHEMA = `
  CREATE TABLE IF NOT EXISTS endpoints (
    id TEXT PRIMARY KEY, url TEXT NOT NULL, events TEXT NOT NULL, description TEXT NOT NULL, disabled TEXT,
    created INTEGER NOT NULL) STRICT;`

export const DEFAULT_ENDPOINT = 'default'
export const MAX_ENDPOINTS = 20
/** Each event is sent once per endpoint, so this limits how often one host receives it. */
export const MAX_ENDPOINTS_OF_HOST = 5

/** The reason why an endpoint is disabled: by its owner, or because the receiver responded with 410. */
export type DisableReason = 'by_owner' | 'gone'
export type Endpoint = {
  id: string
  url: string
  events: EventType[]
  description: string
  disabled: DisableReason | null
  created: number
}
export type EndpointFields = Pick<Endpoint, 'url' | 'events' | 'description' | 'disabled'>
/** The reason why a URL cannot be registered. */
export type AddressConflict = { kind: 'exists'; id: string } | { kind: 'full'; of: 'account' | 'host' }

type Row = Omit<Endpoint, 'events'> & { events: string }

export const newEndpointId = () => `wh_${crypto.getRandomValues(new Uint8Array(12)).toHex()}`

export function listEndpoints(sql: SqlStorage): Endpoint[] {
  const rows = sql.exec<Row>('SELECT * FROM endpoints ORDER BY created, id').toArray()
  return rows.map((row) => ({ ...row, events: JSON.parse(row.events) }))
}

export const findEndpoint = (sql: SqlStorage, id: string): Endpoint | null =>
  listEndpoints(sql).find((endpoint) => endpoint.id === id) ?? null

/** Finds the endpoint with an equivalent URL. */
export const findByAddress = (endpoints: readonly Endpoint[], url: string): Endpoint | null =>
  endpoints.find((endpoint) => normalizeAddress(endpoint.url) === normalizeAddress(url)) ?? null

/** Returns the conflict that prevents registering this URL in addition to `others`, or null. */
export function findConflict(others: readonly Endpoint[], url: string): AddressConflict | null {
  const same = findByAddress(others, url)
  if (same) return { kind: 'exists', id: same.id }
  if (others.length >= MAX_ENDPOINTS) return { kind: 'full', of: 'account' }
  const ofHost = others.filter((endpoint) => hostOf(endpoint.url) === hostOf(url))
  return ofHost.length >= MAX_ENDPOINTS_OF_HOST ? { kind: 'full', of: 'host' } : null
}

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
    'UPDATE endpoints SET url = ?, events = ?, description = ?, disabled = ? WHERE id = ?',
    ...[url, JSON.stringify(events), description, disabled, id],
  )
}

export const deleteEndpoint = (sql: SqlStorage, id: string): boolean =>
  sql.exec('DELETE FROM endpoints WHERE id = ?', id).rowsWritten > 0

export const disableEndpoint = (sql: SqlStorage, id: string, reason: DisableReason) =>
  sql.exec('UPDATE endpoints SET disabled = ? WHERE id = ?', reason, id)

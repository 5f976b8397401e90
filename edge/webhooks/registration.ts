// Adds, updates and deletes endpoints together with their keys, pending deliveries and circuit breakers. Call each function in a transaction.

import { dropPending } from './delivery/deliveries.ts'
import { hostOf, normalizeAddress } from './endpoints/address.ts'
import {
  type AddressConflict,
  deleteEndpoint,
  type Endpoint,
  type EndpointFields,
  findConflict,
  insertEndpoint,
  listEndpoints,
  updateEndpoint,
} from './endpoints/endpoints.ts'
import { deleteKeys, type KeyView, listKeys, rotateKey } from './endpoints/keys.ts'
import { deleteReceiver, refreshReceiver, resetReceiver, saveReceiver } from './endpoints/receivers.ts'
import type { SigningKey } from './endpoints/signature.ts'

/** An endpoint as shown to its owner. */
export type EndpointView = Endpoint & { keys: KeyView[] }
export type Registration = AddressConflict | { kind: 'registered'; id: string }

export const viewEndpoints = (sql: SqlStorage): EndpointView[] =>
  listEndpoints(sql).map((endpoint) => ({ ...endpoint, keys: listKeys(sql, endpoint.id) }))

/** Adds an endpoint with its first key, or returns the conflict that prevents it. Idempotent for the same id. */
export function register(sql: SqlStorage, id: string, fields: EndpointFields, key: SigningKey): Registration {
  const endpoints = listEndpoints(sql)
  if (endpoints.some((each) => each.id === id)) return { kind: 'registered', id }
  const conflict = findConflict(endpoints, fields.url)
  if (conflict) return conflict
  insertEndpoint(sql, id, fields)
  rotateKey(sql, id, key, 0)
  return { kind: 'registered', id }
}

/** Updates the given fields and resets the circuit breaker. Disabling drops pending deliveries. Returns null if the endpoint does not exist. */
export function changeRegistration(sql: SqlStorage, id: string, changes: Partial<EndpointFields>): Registration | null {
  const endpoints = listEndpoints(sql)
  const endpoint = endpoints.find((each) => each.id === id)
  if (!endpoint) return null
  const changed = { ...endpoint, ...changes }
  const isMoved = normalizeAddress(changed.url) !== normalizeAddress(endpoint.url)
  const others = endpoints.filter((each) => each !== endpoint)
  const conflict = isMoved ? findConflict(others, changed.url) : null
  if (conflict) return conflict
  updateEndpoint(sql, id, changed)
  if (changes.disabled) dropPending(sql, id)
  saveReceiver(sql, id, hostOf(changed.url))
  resetReceiver(sql, id)
  refreshReceiver(sql, id)
  return { kind: 'registered', id }
}

/** Deletes an endpoint and its keys, and drops its pending deliveries. Returns false if the endpoint does not exist. */
export function unregister(sql: SqlStorage, id: string): boolean {
  dropPending(sql, id)
  deleteReceiver(sql, id)
  deleteKeys(sql, id)
  return deleteEndpoint(sql, id)
}

// Creates, updates, rotates and revokes an account's keys, on behalf of the operator or of a key with the `admin` scope within its own
// rights. Call each function in a transaction.

import type { KeyCredential } from '../../auth/keys.ts'
import { UNLIMITED } from '../../config/limits.ts'
import type { KeyChange, KeyInfo, KeyOptions } from './key-info.ts'
import { combineLimits, excessOf, isUnlimited, type Rights } from './key-rights.ts'
import { creatorsOf, endKey, findKey, insertKey, isActive, type Line, MAX_CREATORS, updateKey } from './key-table.ts'

/** The maximum numbers of active keys and of all keys per account. The oldest inactive keys are deleted first. */
export const MAX_ACTIVE_KEYS = 100
const MAX_KEYS = 1000

export type KeyRefusal =
  | { kind: 'absent' }
  | { kind: 'ended'; revoked: boolean }
  /** The managing key is no longer active. */
  | { kind: 'unauthorized' }
  /** A key may not change itself, its lineage, or its ancestors. */
  | { kind: 'own_line' }
  /** A key with limits may change only its descendants. */
  | { kind: 'not_descended' }
  /** The grant would exceed the rights of the managing key in these fields. */
  | { kind: 'exceeds'; fields: string[] }
  | { kind: 'too_deep' }
  | { kind: 'too_many' }
export type KeyOutcome = { kind: 'done'; key: KeyInfo } | KeyRefusal

const KEY_DEFAULTS: Pick<KeyOptions, 'label' | 'scopes'> = { label: '', scopes: ['generate', 'read'] }
const toOutcome = (key: KeyInfo): KeyOutcome => ({ kind: 'done', key })

/** The managing key. `own` is its effective rights, as restricted by its ancestors. */
type Manager = { key: KeyInfo; creators: Line[]; own: Rights }
const OPERATOR = 'operator'

function managerOf(sql: SqlStorage, by: string | null): Manager | typeof OPERATOR | null {
  if (by === null) return OPERATOR
  const key = findKey(sql, by)
  if (!key || !isActive(key) || !key.scopes.includes('admin')) return null
  const creators = creatorsOf(sql, key)
  const limits = combineLimits([key.limits, ...creators.map(({ limits }) => limits)])
  return { key, creators, own: { ...key, limits } }
}

function findExcess(granted: Rights, { own }: Manager): KeyRefusal | null {
  const fields = excessOf(granted, own)
  return fields.length > 0 ? { kind: 'exceeds', fields } : null
}

/** Returns the reason why a manager may not change a key of another lineage in its current state, or null. */
function findManagementRefusal(sql: SqlStorage, target: KeyInfo, manager: Manager): KeyRefusal | null {
  const { key, creators, own } = manager
  if (creators.some(({ lineage }) => lineage === target.lineage)) return { kind: 'own_line' }
  const descends = creatorsOf(sql, target).some(({ lineage }) => lineage === key.lineage)
  if (!descends && !isUnlimited(own.limits)) return { kind: 'not_descended' }
  return findExcess(target, manager)
}

/** Makes room for a new key. Returns false if too many keys are active; `ending` is the number of keys revoked by the same change. */
function makeRoom(sql: SqlStorage, ending = 0): boolean {
  const { all, active } = sql
    .exec<{ all: number; active: number }>(
      'SELECT count(*) AS "all", count(iif(revoked IS NULL AND (expires IS NULL OR expires > ?), 1, NULL)) AS active FROM keys',
      Date.now(),
    )
    .one()
  if (active - ending >= MAX_ACTIVE_KEYS) return false
  if (all >= MAX_KEYS) deleteOldestKey(sql)
  return true
}

/** Deletes the key that became inactive first, and the meter of its lineage with the last key. Ancestors of existing keys are kept. */
function deleteOldestKey(sql: SqlStorage): void {
  const [oldest] = sql.exec<{ id: string; lineage: string }>(
    `SELECT id, lineage FROM keys WHERE (revoked IS NOT NULL OR expires <= ?)
       AND id NOT IN (SELECT lineage FROM keys WHERE id <> lineage
         UNION SELECT created_by FROM keys WHERE id = lineage AND created_by IS NOT NULL)
     ORDER BY coalesce(revoked, expires) LIMIT 1`,
    Date.now(),
  )
  if (!oldest) return
  sql.exec('DELETE FROM keys WHERE id = ?', oldest.id)
  if (oldest.id === oldest.lineage) sql.exec('DELETE FROM meters WHERE id = ? AND open = 0', `key:${oldest.lineage}`)
}

/**
 * Creates a key. Idempotent for the same credential. Omitted limits and expiry are inherited from the creating key `by`; keys created by
 * the operator default to none.
 */
export function createKey(sql: SqlStorage, credential: KeyCredential, given: KeyChange, by: string | null): KeyOutcome {
  const existing = findKey(sql, credential.keyId)
  if (existing) return toOutcome(existing)
  const manager = managerOf(sql, by)
  if (!manager) return { kind: 'unauthorized' }
  const own = manager === OPERATOR ? { limits: UNLIMITED, expires: null } : manager.own
  const limits = { ...own.limits, ...given.limits }
  const options = { ...KEY_DEFAULTS, expires: own.expires, ...given, limits }
  if (manager !== OPERATOR) {
    if (manager.creators.length >= MAX_CREATORS) return { kind: 'too_deep' }
    const refusal = findExcess(options, manager)
    if (refusal) return refusal
  }
  if (!makeRoom(sql)) return { kind: 'too_many' }
  return toOutcome(insertKey(sql, credential, options, { createdBy: by }))
}

/** Updates the given fields of a key. Only the label of an inactive key may change. */
export function changeKey(sql: SqlStorage, id: string, given: KeyChange, by: string | null): KeyOutcome {
  const target = findKey(sql, id)
  if (!target) return { kind: 'absent' }
  const manager = managerOf(sql, by)
  if (!manager) return { kind: 'unauthorized' }
  const changed = { ...target, ...given, limits: { ...target.limits, ...given.limits } }
  const isLabel = Object.keys(given).every((name) => name === 'label')
  if (manager !== OPERATOR && !(isLabel && target.lineage === manager.key.lineage)) {
    if (target.lineage === manager.key.lineage) return { kind: 'own_line' }
    const refusal = findManagementRefusal(sql, target, manager) ?? findExcess(changed, manager)
    if (refusal) return refusal
  }
  if (isLabel) return toOutcome(updateKey(sql, target, changed))
  if (!isActive(target)) return { kind: 'ended', revoked: target.revoked !== null }
  return toOutcome(updateKey(sql, target, changed))
}

/**
 * Returns the reason why `by` may not rotate or revoke a key, or null. Every key may revoke the keys of its own lineage. It may rotate only
 * those that have no more rights: a replaced key must not outlive its expiry by rotating its successor.
 */
function refuseEnd(sql: SqlStorage, target: KeyInfo, by: string | null, isRotation: boolean): KeyRefusal | null {
  const manager = managerOf(sql, by)
  if (!manager) return { kind: 'unauthorized' }
  if (manager === OPERATOR) return null
  if (target.lineage !== manager.key.lineage) return findManagementRefusal(sql, target, manager)
  return isRotation ? findExcess(target, { ...manager, own: manager.key }) : null
}

/**
 * Rotates a key: `next` inherits its label, scopes, limits and expiry. The old key expires at `until` (Unix milliseconds) at the latest; if
 * that is now, the old key and its links are revoked.
 */
export function replaceKey(
  sql: SqlStorage,
  id: string,
  next: KeyCredential,
  until: number,
  by: string | null,
): KeyOutcome {
  const existing = findKey(sql, next.keyId)
  if (existing) return toOutcome(existing)
  const old = findKey(sql, id)
  if (!old) return { kind: 'absent' }
  const refusal = refuseEnd(sql, old, by, true)
  if (refusal) return refusal
  if (!isActive(old)) return { kind: 'ended', revoked: old.revoked !== null }
  const isImmediate = until <= Date.now()
  if (!makeRoom(sql, isImmediate ? 1 : 0)) return { kind: 'too_many' }
  if (isImmediate) endKey(sql, id)
  else updateKey(sql, old, { ...old, expires: Math.min(until, old.expires ?? until) })
  return toOutcome(insertKey(sql, next, old, { lineage: old.lineage, createdBy: by }))
}

/** Revokes a key and its browser tokens immediately and permanently. Idempotent. A key may revoke itself. */
export function revokeKey(sql: SqlStorage, id: string, by: string | null): KeyOutcome {
  const target = findKey(sql, id)
  if (!target) return { kind: 'absent' }
  const refusal = refuseEnd(sql, target, by, false)
  if (refusal) return refusal
  endKey(sql, id)
  return toOutcome(findKey(sql, id)!)
}

/** Whether a key is a root key: an active admin key without limits, created by the operator. Only root keys have rights to the whole account. */
export function isRootKey(sql: SqlStorage, id: string): boolean {
  const manager = managerOf(sql, id)
  return manager !== null && manager !== OPERATOR && manager.creators.length === 0 && isUnlimited(manager.own.limits)
}

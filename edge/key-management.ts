// Makes, changes and replaces an account's keys, for the operator or for a key of scope `admin` within its own rights.
// Call each function in a transaction.
import {
  creatorsOf,
  endKey,
  findKey,
  insertKey,
  isActive,
  type KeyChange,
  type KeyInfo,
  type KeyOptions,
  type Line,
  MOST_CREATORS,
  updateKey,
} from './account-keys.ts'
import { excessOf, isUnlimited, lowestLimits, type Rights } from './key-rights.ts'
import type { KeyCredential } from './keys.ts'
import { UNLIMITED } from './limits.ts'

/** Active keys of an account, and keys in all; the oldest ended ones make place for new ones. */
export const MOST_ACTIVE_KEYS = 100
const MOST_KEYS = 1000

export type KeyRefusal =
  | { kind: 'absent' }
  | { kind: 'ended'; revoked: boolean }
  /** The key that manages has ended meanwhile. */
  | { kind: 'unauthorised' }
  /** A key may not change itself, its line, or a key that it descends from. */
  | { kind: 'own_line' }
  /** A key with limits may change only keys that descend from it. */
  | { kind: 'not_descended' }
  /** It would grant, in these fields, more than the key that manages has. */
  | { kind: 'exceeds'; fields: string[] }
  | { kind: 'too_deep' }
  | { kind: 'too_many' }
export type KeyOutcome = { kind: 'done'; key: KeyInfo } | KeyRefusal

const KEY_DEFAULTS: Pick<KeyOptions, 'label' | 'scopes'> = { label: '', scopes: ['generate', 'read'] }
const done = (key: KeyInfo): KeyOutcome => ({ kind: 'done', key })

/** Who acts: `own` are its rights as they are bound by the keys that it descends from. */
type Manager = { key: KeyInfo; creators: Line[]; own: Rights }
const OPERATOR = 'operator'

function managerOf(sql: SqlStorage, by: string | null): Manager | typeof OPERATOR | null {
  if (by === null) return OPERATOR
  const key = findKey(sql, by)
  if (!key || !isActive(key) || !key.scopes.includes('admin')) return null
  const creators = creatorsOf(sql, key)
  const limits = lowestLimits([key.limits, ...creators.map(({ limits }) => limits)])
  return { key, creators, own: { ...key, limits } }
}

function exceeds(granted: Rights, { own }: Manager): KeyRefusal | null {
  const fields = excessOf(granted, own)
  return fields.length > 0 ? { kind: 'exceeds', fields } : null
}

/** Why a key may not be managed as it stands, its own line apart. */
function unmanageable(sql: SqlStorage, target: KeyInfo, manager: Manager): KeyRefusal | null {
  const { key, creators, own } = manager
  if (creators.some(({ lineage }) => lineage === target.lineage)) return { kind: 'own_line' }
  const descends = creatorsOf(sql, target).some(({ lineage }) => lineage === key.lineage)
  if (!descends && !isUnlimited(own.limits)) return { kind: 'not_descended' }
  return exceeds(target, manager)
}

/** Makes place for one more key. False when too many are active; `ending` of these end with the change. */
function makeRoom(sql: SqlStorage, ending = 0): boolean {
  const { all, active } = sql
    .exec<{ all: number; active: number }>(
      'SELECT count(*) AS "all", count(iif(revoked IS NULL AND (expires IS NULL OR expires > ?), 1, NULL)) AS active FROM keys',
      Date.now(),
    )
    .one()
  if (active - ending >= MOST_ACTIVE_KEYS) return false
  if (all >= MOST_KEYS) forgetOldestKey(sql)
  return true
}

/** Deletes the key that ended first, and the meter of its line with the last of its keys. What keys descend from stays while they do. */
function forgetOldestKey(sql: SqlStorage): void {
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

/** Makes a key; a repeat with the same credential returns it. Limits and an end that are left out are those of the key `by` that makes it; the operator's keys have none. */
export function createKey(sql: SqlStorage, credential: KeyCredential, given: KeyChange, by: string | null): KeyOutcome {
  const existing = findKey(sql, credential.keyId)
  if (existing) return done(existing)
  const manager = managerOf(sql, by)
  if (!manager) return { kind: 'unauthorised' }
  const own = manager === OPERATOR ? { limits: UNLIMITED, expires: null } : manager.own
  const limits = { ...own.limits, ...given.limits }
  const options = { ...KEY_DEFAULTS, expires: own.expires, ...given, limits }
  if (manager !== OPERATOR) {
    if (manager.creators.length >= MOST_CREATORS) return { kind: 'too_deep' }
    const refusal = exceeds(options, manager)
    if (refusal) return refusal
  }
  if (!makeRoom(sql)) return { kind: 'too_many' }
  return done(insertKey(sql, credential, options, { createdBy: by }))
}

/** Changes what is given of a key. A key that has ended keeps all but its label. */
export function changeKey(sql: SqlStorage, id: string, given: KeyChange, by: string | null): KeyOutcome {
  const target = findKey(sql, id)
  if (!target) return { kind: 'absent' }
  const manager = managerOf(sql, by)
  if (!manager) return { kind: 'unauthorised' }
  const changed = { ...target, ...given, limits: { ...target.limits, ...given.limits } }
  if (Object.keys(given).every((name) => name === 'label')) return done(updateKey(sql, target, changed))
  if (manager !== OPERATOR) {
    if (target.lineage === manager.key.lineage) return { kind: 'own_line' }
    const refusal = unmanageable(sql, target, manager) ?? exceeds(changed, manager)
    if (refusal) return refusal
  }
  if (!isActive(target)) return { kind: 'ended', revoked: target.revoked !== null }
  return done(updateKey(sql, target, changed))
}

/**
 * Puts `next` in a key's place with its label, scopes, limits and end. The old key holds until `until` (Unix milliseconds) at most; one
 * that is to end at once is revoked, and its links with it.
 */
export function replaceKey(
  sql: SqlStorage,
  id: string,
  next: KeyCredential,
  until: number,
  by: string | null,
): KeyOutcome {
  const existing = findKey(sql, next.keyId)
  if (existing) return done(existing)
  const old = findKey(sql, id)
  if (!old) return { kind: 'absent' }
  const manager = managerOf(sql, by)
  if (!manager) return { kind: 'unauthorised' }
  if (manager !== OPERATOR && old.lineage !== manager.key.lineage) {
    const refusal = unmanageable(sql, old, manager)
    if (refusal) return refusal
  }
  if (!isActive(old)) return { kind: 'ended', revoked: old.revoked !== null }
  const atOnce = until <= Date.now()
  if (!makeRoom(sql, atOnce ? 1 : 0)) return { kind: 'too_many' }
  if (atOnce) endKey(sql, id)
  else updateKey(sql, old, { ...old, expires: Math.min(until, old.expires ?? until) })
  return done(insertKey(sql, next, old, { lineage: old.lineage, createdBy: by }))
}

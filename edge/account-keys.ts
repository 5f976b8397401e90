// An account's keys, as functions over its SQLite: secret hashes, scopes, limits, expiry. Keys that replaced one another by rotation
// are one line (`lineage`) and share one meter, so that a rotation renews no allowance.
import { timingSafeEqual } from 'hono/utils/buffer'
import type { Credential, KeyCredential, Scope } from './keys.ts'
import { type Limits, UNLIMITED } from './limits.ts'

export const KEYS_SCHEMA = `
  CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, lineage TEXT NOT NULL, secret_hash TEXT NOT NULL, label TEXT NOT NULL, scopes TEXT NOT NULL,
    limits TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER, revoked INTEGER) STRICT;`

/** What the holder of `admin` may say about a key. `expires` is Unix milliseconds, null for never. */
export type KeyOptions = { label: string; scopes: Scope[]; limits: Limits; expires: number | null }
/** What is changed of it; limits that are not named stay. */
export type KeyChange = Partial<Omit<KeyOptions, 'limits'> & { limits: Partial<Limits> }>
/** A key without its secret. Times are Unix milliseconds. */
export type KeyInfo = KeyOptions & { id: string; lineage: string; created: number; revoked: number | null }

type KeyRow = Record<'id' | 'lineage' | 'secret_hash' | 'label' | 'scopes' | 'limits', string> & {
  created: number
  expires: number | null
  revoked: number | null
}

const KEY_DEFAULTS: KeyOptions = { label: '', scopes: ['generate', 'read'], limits: UNLIMITED, expires: null }

const infoOf = ({ secret_hash: _, scopes, limits, ...row }: KeyRow): KeyInfo => ({
  ...row,
  scopes: JSON.parse(scopes),
  limits: JSON.parse(limits),
})

const rowOf = (sql: SqlStorage, id: string) => sql.exec<KeyRow>('SELECT * FROM keys WHERE id = ?', id).toArray()[0]

/** Adds a key, which is a line of its own unless it continues one. */
export function insertKey(
  sql: SqlStorage,
  { keyId, secretHash }: KeyCredential,
  options: Partial<KeyOptions>,
  lineage = keyId,
): KeyInfo {
  const { label, scopes, limits, expires } = { ...KEY_DEFAULTS, ...options }
  sql.exec(
    'INSERT INTO keys (id, lineage, secret_hash, label, scopes, limits, created, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
    ...[keyId, lineage, secretHash, label, JSON.stringify(scopes), JSON.stringify(limits), Date.now(), expires],
  )
  return findKey(sql, keyId)!
}

export function findKey(sql: SqlStorage, id: string): KeyInfo | null {
  const row = rowOf(sql, id)
  return row ? infoOf(row) : null
}

export const listKeys = (sql: SqlStorage): KeyInfo[] =>
  sql.exec<KeyRow>('SELECT * FROM keys ORDER BY created, rowid').toArray().map(infoOf)

/** Changes what is given of a key; null when there is none of that id. */
export function changeKey(sql: SqlStorage, id: string, change: KeyChange): KeyInfo | null {
  const known = findKey(sql, id)
  if (!known) return null
  const { label, scopes, limits, expires } = { ...known, ...change, limits: { ...known.limits, ...change.limits } }
  sql.exec(
    'UPDATE keys SET label = ?, scopes = ?, limits = ?, expires = ? WHERE id = ?',
    ...[label, JSON.stringify(scopes), JSON.stringify(limits), expires, id],
  )
  return findKey(sql, id)
}

/** Ends a key at once and for good; false when there is none of that id. */
export const endKey = (sql: SqlStorage, id: string): boolean =>
  sql.exec('UPDATE keys SET revoked = coalesce(revoked, ?) WHERE id = ?', Date.now(), id).rowsWritten > 0

/** Puts `next` in a key's place with its label, scopes and limits. The old key holds until `until` (Unix milliseconds) at most. */
export function replaceKey(sql: SqlStorage, id: string, next: KeyCredential, until: number): KeyInfo | null {
  const old = findKey(sql, id)
  if (!old || !isActive(old)) return null
  changeKey(sql, id, { expires: Math.min(until, old.expires ?? until) })
  const { label, scopes, limits } = old
  return insertKey(sql, next, { label, scopes, limits, expires: old.expires }, old.lineage)
}

export const isActive = ({ revoked, expires }: KeyInfo): boolean =>
  revoked === null && (expires === null || expires > Date.now())

/** The active key behind a credential: its own secret must be right; a browser token stands for the key that signed it. */
export async function authenticate(sql: SqlStorage, credential: Credential): Promise<KeyInfo | null> {
  const row = rowOf(sql, credential.keyId)
  if (!row) return null
  if ('secretHash' in credential && !(await timingSafeEqual(row.secret_hash, credential.secretHash))) return null
  // Time passes in the comparison: what counts is what is written now.
  const key = findKey(sql, credential.keyId)
  return key && isActive(key) ? key : null
}

/** Whether a credential may do what `scope` names: a token its one scope, and only as long as its key may. */
export function allows(key: KeyInfo, credential: Credential, scope: Scope): boolean {
  return key.scopes.includes(scope) && ('token' in credential ? credential.token.scope === scope : true)
}

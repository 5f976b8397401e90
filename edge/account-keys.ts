// An account's keys, as functions over its SQLite: secret hashes, scopes, limits, expiry. Keys that replaced one another by rotation
// are one line (`lineage`) and share limits and meter, so that a rotation renews no allowance.
import { timingSafeEqual } from 'hono/utils/buffer'
import type { Credential, KeyCredential, Scope } from './keys.ts'
import type { Limits } from './limits.ts'

export const KEYS_SCHEMA = `
  CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, lineage TEXT NOT NULL, secret_hash TEXT NOT NULL, label TEXT NOT NULL, scopes TEXT NOT NULL,
    limits TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER, revoked INTEGER, created_by TEXT) STRICT;`

/** What the holder of `admin` may say about a key. `expires` is Unix milliseconds, null for never. */
export type KeyOptions = { label: string; scopes: Scope[]; limits: Limits; expires: number | null }
/** What is given of it; limits that are not named stay, or are those of the key that creates. */
export type KeyChange = Partial<Omit<KeyOptions, 'limits'> & { limits: Partial<Limits> }>
/** A key without its secret. Times are Unix milliseconds. `created_by` is the id of the key that made it, null for the operator. */
export type KeyInfo = KeyOptions & {
  id: string
  lineage: string
  created: number
  revoked: number | null
  created_by: string | null
}
/** `creator_revoked`: a key that made this one, or one that made that one, was revoked. */
export type ListedKey = KeyInfo & { creator_revoked: boolean }

type KeyRow = Record<'id' | 'lineage' | 'secret_hash' | 'label' | 'scopes' | 'limits', string> & {
  created: number
  expires: number | null
  revoked: number | null
  created_by: string | null
}

const infoOf = ({ secret_hash: _, scopes, limits, ...row }: KeyRow): KeyInfo => ({
  ...row,
  scopes: JSON.parse(scopes),
  limits: JSON.parse(limits),
})

const rowOf = (sql: SqlStorage, id: string) => sql.exec<KeyRow>('SELECT * FROM keys WHERE id = ?', id).toArray()[0]

/** Adds the columns that a table of an older version lacks. */
export function migrateKeys(sql: SqlStorage): void {
  const columns = sql.exec<{ name: string }>('PRAGMA table_info(keys)').toArray()
  if (!columns.some(({ name }) => name === 'created_by')) sql.exec('ALTER TABLE keys ADD COLUMN created_by TEXT')
}

/** Writes a key, which is a line of its own unless it continues one. */
export function insertKey(
  sql: SqlStorage,
  { keyId, secretHash }: KeyCredential,
  { label, scopes, limits, expires }: KeyOptions,
  { lineage = keyId, createdBy }: { lineage?: string; createdBy: string | null },
): KeyInfo {
  sql.exec(
    `INSERT INTO keys (id, lineage, secret_hash, label, scopes, limits, created, expires, created_by)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ...[
      keyId,
      lineage,
      secretHash,
      label,
      JSON.stringify(scopes),
      JSON.stringify(limits),
      Date.now(),
      expires,
      createdBy,
    ],
  )
  return findKey(sql, keyId)!
}

export function findKey(sql: SqlStorage, id: string): KeyInfo | null {
  const row = rowOf(sql, id)
  return row ? infoOf(row) : null
}

/** All keys, oldest first. */
export function listKeys(sql: SqlStorage): ListedKey[] {
  const keys = sql.exec<KeyRow>('SELECT * FROM keys ORDER BY created, rowid').toArray().map(infoOf)
  // A key is older than those that it made.
  const suspect = new Map<string, boolean>()
  return keys.map((key) => {
    const creator_revoked = key.created_by !== null && (suspect.get(key.created_by) ?? false)
    suspect.set(key.id, creator_revoked || key.revoked !== null)
    return { ...key, creator_revoked }
  })
}

/** Writes what is given of a key. Limits are those of its whole line. */
export function updateKey(sql: SqlStorage, { id, lineage }: KeyInfo, changed: KeyOptions): KeyInfo {
  const { label, scopes, limits, expires } = changed
  sql.exec(
    'UPDATE keys SET label = ?, scopes = ?, expires = ? WHERE id = ?',
    label,
    JSON.stringify(scopes),
    expires,
    id,
  )
  sql.exec('UPDATE keys SET limits = ? WHERE lineage = ?', JSON.stringify(limits), lineage)
  return findKey(sql, id)!
}

/** Ends a key at once and for good; false when there is none of that id. */
export const endKey = (sql: SqlStorage, id: string): boolean =>
  sql.exec('UPDATE keys SET revoked = coalesce(revoked, ?) WHERE id = ?', Date.now(), id).rowsWritten > 0

export const isActive = ({ revoked, expires }: Pick<KeyInfo, 'revoked' | 'expires'>): boolean =>
  revoked === null && (expires === null || expires > Date.now())

/** Whether links signed for a key hold: it was not revoked, and it or another key of its line is active. */
export function holdsLinks(sql: SqlStorage, id: string): boolean {
  const key = findKey(sql, id)
  if (!key || key.revoked !== null) return false
  const line = sql.exec<KeyRow>('SELECT * FROM keys WHERE lineage = ?', key.lineage).toArray()
  return line.some(isActive)
}

/** A line of keys, with its limits. */
export type Line = { lineage: string; limits: Limits }
/** The longest descent: a key of the operator, one that it made, and one that this made. */
export const MOST_CREATORS = 2

/**
 * The lines that a key descends from, nearest first: the one whose key began its line, and so on. What the key spends counts on them as
 * well, so that no key gains an allowance by making keys.
 */
export function creatorsOf(sql: SqlStorage, { id, lineage, created_by }: KeyInfo): Line[] {
  // The common case, a key of the operator, needs no query.
  if (id === lineage && created_by === null) return []
  const rows = sql.exec<{ lineage: string; limits: string }>(
    `WITH RECURSIVE up(lineage, depth) AS (
       VALUES (?, 0)
       UNION ALL
       SELECT creator.lineage, depth + 1 FROM up
         JOIN keys first ON first.id = up.lineage JOIN keys creator ON creator.id = first.created_by WHERE depth < ?)
     SELECT first.lineage, first.limits FROM up JOIN keys first ON first.id = up.lineage WHERE depth > 0 ORDER BY depth`,
    ...[lineage, MOST_CREATORS],
  )
  return rows.toArray().map(({ lineage, limits }) => ({ lineage, limits: JSON.parse(limits) }))
}

/** The active key behind a credential: its own secret must be right; a browser token stands for the key that signed it. */
export async function authenticate(sql: SqlStorage, credential: Credential): Promise<KeyInfo | null> {
  const row = rowOf(sql, credential.keyId)
  if (!row) return null
  if ('secretHash' in credential && !(await timingSafeEqual(row.secret_hash, credential.secretHash))) return null
  // Time passes in the comparison: what counts is what is written now.
  const key = findKey(sql, credential.keyId)
  return key && isActive(key) ? key : null
}

/** Whether a credential may do what `scope` names. A browser token generates, and reads what it has generated, as long as its key may generate. */
export function allows(key: KeyInfo, credential: Credential, scope: Scope): boolean {
  if ('token' in credential) return scope !== 'admin' && key.scopes.includes('generate')
  return key.scopes.includes(scope)
}

// An account's keys, as functions over its SQLite: secret hashes, scopes, limits, expiry. Keys related by rotation form one lineage and
// share limits and a meter, so that rotation does not reset an allowance.

import { timingSafeEqual } from 'hono/utils/buffer'
import type { Credential, KeyCredential } from '../../auth/keys.ts'
import type { Limits } from '../../config/limits.ts'
import type { KeyInfo, KeyOptions, ListedKey } from './key-info.ts'

export const KEYS_SCHEMA = `
  CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, lineage TEXT NOT NULL, secret_hash TEXT NOT NULL, label TEXT NOT NULL, scopes TEXT NOT NULL,
    limits TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER, revoked INTEGER, created_by TEXT,
    chosen_model TEXT) STRICT;`

type KeyRow = Record<'id' | 'lineage' | 'secret_hash' | 'label' | 'scopes' | 'limits', string> & {
  created: number
  expires: number | null
  revoked: number | null
  created_by: string | null
  chosen_model: string | null
}

const infoOf = ({ secret_hash: _, chosen_model: __, scopes, limits, ...row }: KeyRow): KeyInfo => ({
  ...row,
  scopes: JSON.parse(scopes),
  limits: JSON.parse(limits),
})

const rowOf = (sql: SqlStorage, id: string) => sql.exec<KeyRow>('SELECT * FROM keys WHERE id = ?', id).toArray()[0]

/** Inserts a key. It starts its own lineage unless one is given. */
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
  // A creator is older than the keys it created, so it comes first.
  const suspect = new Map<string, boolean>()
  return keys.map((key) => {
    const creator_revoked = key.created_by !== null && (suspect.get(key.created_by) ?? false)
    suspect.set(key.id, creator_revoked || key.revoked !== null)
    return { ...key, creator_revoked }
  })
}

/** Updates a key. Limits apply to its whole lineage. */
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

/** Revokes a key immediately and permanently. Returns false if the id is unknown. */
export const endKey = (sql: SqlStorage, id: string): boolean =>
  sql.exec('UPDATE keys SET revoked = coalesce(revoked, ?) WHERE id = ?', Date.now(), id).rowsWritten > 0

export const isActive = ({ revoked, expires }: Pick<KeyInfo, 'revoked' | 'expires'>): boolean =>
  revoked === null && (expires === null || expires > Date.now())

/** Whether links signed for a key are valid: the key was not revoked, and it or another key of its lineage is active. */
export function areLinksValid(sql: SqlStorage, id: string): boolean {
  const key = findKey(sql, id)
  if (!key || key.revoked !== null) return false
  const lineage = sql.exec<KeyRow>('SELECT * FROM keys WHERE lineage = ?', key.lineage).toArray()
  return lineage.some(isActive)
}

/** The model for requests without the field `model` from a key's lineage; null if none was chosen. */
export const readChosenModel = (sql: SqlStorage, id: string): string | null =>
  sql
    .exec<Pick<KeyRow, 'chosen_model'>>(
      'SELECT first.chosen_model FROM keys JOIN keys first ON first.id = keys.lineage WHERE keys.id = ?',
      id,
    )
    .toArray()[0]?.chosen_model ?? null

/** Sets the model for requests without the field `model` from a key's lineage; null removes the choice. */
export function chooseModel(sql: SqlStorage, id: string, model: string | null): void {
  sql.exec('UPDATE keys SET chosen_model = ? WHERE id = (SELECT lineage FROM keys WHERE id = ?)', model, id)
}

/** A key lineage and its limits. */
export type Line = { lineage: string; limits: Limits }
/** The maximum number of ancestors: an operator key may create keys, and those may create further keys. */
export const MAX_CREATORS = 2

/**
 * Returns the ancestor lineages of a key, nearest first. A key's spending also counts toward its ancestors, so that creating keys does not
 * increase an allowance.
 */
export function creatorsOf(sql: SqlStorage, { id, lineage, created_by }: KeyInfo): Line[] {
  // Fast path: a key created by the operator has no ancestors.
  if (id === lineage && created_by === null) return []
  const rows = sql.exec<{ lineage: string; limits: string }>(
    `WITH RECURSIVE up(lineage, depth) AS (
       VALUES (?, 0)
       UNION ALL
       SELECT creator.lineage, depth + 1 FROM up
         JOIN keys first ON first.id = up.lineage JOIN keys creator ON creator.id = first.created_by WHERE depth < ?)
     SELECT first.lineage, first.limits FROM up JOIN keys first ON first.id = up.lineage WHERE depth > 0 ORDER BY depth`,
    ...[lineage, MAX_CREATORS],
  )
  return rows.toArray().map(({ lineage, limits }) => ({ lineage, limits: JSON.parse(limits) }))
}

/** Returns the active key of a credential, or null. An API key's secret must match; a browser token authenticates as its parent key. */
export async function authenticate(sql: SqlStorage, credential: Credential): Promise<KeyInfo | null> {
  const row = rowOf(sql, credential.keyId)
  if (!row) return null
  if ('secretHash' in credential && !(await timingSafeEqual(row.secret_hash, credential.secretHash))) return null
  // Read again: the key may have changed during the asynchronous comparison.
  const key = findKey(sql, credential.keyId)
  return key && isActive(key) ? key : null
}

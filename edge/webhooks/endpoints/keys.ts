// The signing keys of endpoints, over the SQLite of WebhookDO.
import { newSigningKey, type Scheme, type SigningKey } from './signature.ts'

export const KEY_SCHEMA = `
  CREATE TABLE IF NOT EXISTS signing_keys (
    endpoint TEXT NOT NULL, scheme TEXT NOT NULL, secret TEXT NOT NULL, shown TEXT NOT NULL, created INTEGER NOT NULL,
    expires INTEGER) STRICT;`

type Lifetime = { created: number; expires: number | null }
/** A key as listed, without a shared secret. */
export type KeyView = Pick<SigningKey, 'scheme'> & Lifetime & { publicKey: string | null }
/** The current verification key (a secret if the scheme is `hmac`), and all active keys. */
export type VerificationKey = Pick<SigningKey, 'scheme' | 'shown'> & { keys: KeyView[] }

/** Returns the active keys, newest first: one, or two during a rotation. */
export function selectLiveKeys(sql: SqlStorage, endpoint: string): (SigningKey & Lifetime)[] {
  return sql
    .exec<SigningKey & Lifetime>(
      `SELECT scheme, secret, shown, created, expires FROM signing_keys
       WHERE endpoint = ? AND (expires IS NULL OR expires > ?) ORDER BY rowid DESC`,
      ...[endpoint, Date.now()],
    )
    .toArray()
}

/**
 * Makes `key` the current key of an endpoint. The previous key also signs for `overlapMs`; older keys are deleted immediately. A repeat
 * changes nothing.
 */
export function rotateKey(sql: SqlStorage, endpoint: string, key: SigningKey, overlapMs: number): void {
  if (selectLiveKeys(sql, endpoint)[0]?.secret === key.secret) return
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

export const listKeys = (sql: SqlStorage, endpoint: string): KeyView[] =>
  selectLiveKeys(sql, endpoint).map(({ scheme, shown, created, expires }) => {
    return { scheme, publicKey: scheme === 'ed25519' ? shown : null, created, expires }
  })

/** Returns null if the endpoint has no key. */
export function findVerificationKey(sql: SqlStorage, endpoint: string): VerificationKey | null {
  const [newest] = selectLiveKeys(sql, endpoint)
  return newest ? { scheme: newest.scheme, shown: newest.shown, keys: listKeys(sql, endpoint) } : null
}

/** Creates a key for an endpoint unless it has one. */
export async function ensureKey(sql: SqlStorage, endpoint: string, scheme: Scheme): Promise<void> {
  if (selectLiveKeys(sql, endpoint).length > 0) return
  const key = await newSigningKey(scheme)
  if (selectLiveKeys(sql, endpoint).length === 0) rotateKey(sql, endpoint, key, 0)
}

export const deleteKeys = (sql: SqlStorage, endpoint: string) =>
  sql.exec('DELETE FROM signing_keys WHERE endpoint = ?', endpoint)

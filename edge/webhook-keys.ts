// The keys that sign for an endpoint, over the SQLite of WebhookDO.
import { newSigningKey, type Scheme, type SigningKey } from './webhook-signature.ts'

export const KEY_SCHEMA = `
  CREATE TABLE IF NOT EXISTS signing_keys (
    endpoint TEXT NOT NULL, scheme TEXT NOT NULL, secret TEXT NOT NULL, shown TEXT NOT NULL, created INTEGER NOT NULL,
    expires INTEGER) STRICT;`

type Lifetime = { created: number; expires: number | null }
/** A key as it is listed. A shared secret is not part of it. */
export type KeyView = Pick<SigningKey, 'scheme'> & Lifetime & { publicKey: string | null }
/** The key that receivers verify with from now on, which is a secret with the scheme `hmac`, and all keys that sign. */
export type VerificationKey = Pick<SigningKey, 'scheme' | 'shown'> & { keys: KeyView[] }

/** The keys that sign now, newest first: one, or two during a rotation. */
export function liveKeys(sql: SqlStorage, endpoint: string): (SigningKey & Lifetime)[] {
  return sql
    .exec<SigningKey & Lifetime>(
      `SELECT scheme, secret, shown, created, expires FROM signing_keys
       WHERE endpoint = ? AND (expires IS NULL OR expires > ?) ORDER BY rowid DESC`,
      ...[endpoint, Date.now()],
    )
    .toArray()
}

/** Makes `key` the endpoint's key. The one before it signs as well for `overlapMs`; any older one ends at once. */
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

export const listKeys = (sql: SqlStorage, endpoint: string): KeyView[] =>
  liveKeys(sql, endpoint).map(({ scheme, shown, created, expires }) => {
    return { scheme, publicKey: scheme === 'ed25519' ? shown : null, created, expires }
  })

/** Null when the endpoint has no key. */
export function findVerificationKey(sql: SqlStorage, endpoint: string): VerificationKey | null {
  const [newest] = liveKeys(sql, endpoint)
  return newest ? { scheme: newest.scheme, shown: newest.shown, keys: listKeys(sql, endpoint) } : null
}

/** Makes the first key of an endpoint unless it has one. */
export async function ensureKey(sql: SqlStorage, endpoint: string, scheme: Scheme): Promise<void> {
  if (liveKeys(sql, endpoint).length > 0) return
  const key = await newSigningKey(scheme)
  if (liveKeys(sql, endpoint).length === 0) rotateKey(sql, endpoint, key, 0)
}

export const deleteKeys = (sql: SqlStorage, endpoint: string) =>
  sql.exec('DELETE FROM signing_keys WHERE endpoint = ?', endpoint)

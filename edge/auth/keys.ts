// API keys: `oct_<account>_<key id>_<160 random bits>_<tag>`. The tag is an HMAC of the preceding text under a versioned pepper, so that a
// forged key is rejected before any storage is read. Only a hash of the random part is stored.

import { timingSafeEqual } from 'hono/utils/buffer'
import type { Pepper, Peppers } from '../config/secrets.ts'
import type { Scope } from './scopes.ts'

const KEY = /^(oct_([a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?)_([0-9a-f]{12})_([0-9a-f]{40}))_([0-9a-z])([0-9a-f]{24})$/
export const ACCOUNT_NAME = /^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$/
export const KEY_ID = /^[0-9a-f]{12}$/

/** A key with a valid tag: its claimed identity, and the secret hash to compare with the account's. */
export type KeyCredential = { account: string; keyId: string; secretHash: string }
/** A browser token with a valid tag. It acts on behalf of its parent key; see tokens.ts. */
export type TokenCredential = { account: string; keyId: string; token: Grant }
export type Credential = KeyCredential | TokenCredential
/** The grant of a browser token: a budget in micro-dollars, valid until `expires` (Unix seconds). */
export type Grant = { id: string; scope: 'generate'; budget: number; expires: number }

/** Whether a credential has a scope. A browser token has `generate`, and `read` for its own jobs, if its key has `generate`. */
export function hasScope({ scopes }: { scopes: readonly Scope[] }, credential: Credential, scope: Scope): boolean {
  if ('token' in credential) return scope !== 'admin' && scopes.includes('generate')
  return scopes.includes(scope)
}

const utf8 = new TextEncoder()

/** HMAC-SHA256 in hex. `purpose` separates the uses of the pepper, so that a tag for one purpose is not valid for another. */
export async function computeMac(
  pepper: Pepper,
  purpose: 'address' | 'key' | 'link' | 'token',
  text: string,
): Promise<string> {
  const key = await crypto.subtle.importKey(
    'raw',
    utf8.encode(pepper.secret),
    { name: 'HMAC', hash: 'SHA-256' },
    false,
    ['sign'],
  )
  return new Uint8Array(await crypto.subtle.sign('HMAC', key, utf8.encode(`${purpose}:${text}`))).toHex()
}

/** SHA-256 in hex. A secret of 160 random bits needs no slow hash. */
export async function sha256(data: string | Uint8Array<ArrayBuffer>): Promise<string> {
  const bytes = typeof data === 'string' ? utf8.encode(data) : data
  return new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)).toHex()
}

const createRandomHex = (bytes: number) => crypto.getRandomValues(new Uint8Array(bytes)).toHex()
const tagOf = async (pepper: Pepper, body: string) => (await computeMac(pepper, 'key', body)).slice(0, 24)

/** Creates a key for an account. The key is shown once; only `credential` is stored. */
export async function issueKey(peppers: Peppers, account: string): Promise<{ key: string; credential: KeyCredential }> {
  const [pepper] = peppers
  const [keyId, secret] = [createRandomHex(6), createRandomHex(20)]
  const body = `oct_${account}_${keyId}_${secret}`
  const key = `${body}_${pepper.version}${await tagOf(pepper, body)}`
  return { key, credential: { account, keyId, secretHash: await sha256(secret) } }
}

/** Verifies a key's format and tag without reading storage. Returns null if either is invalid. */
export async function checkKey(peppers: Peppers, text: string): Promise<KeyCredential | null> {
  const [, body, account, keyId, secret, version, tag] = KEY.exec(text) ?? []
  const pepper = peppers.find((each) => each.version === version)
  if (!body || !account || !keyId || !secret || !tag || !pepper) return null
  if (!(await timingSafeEqual(tag, await tagOf(pepper, body)))) return null
  return { account, keyId, secretHash: await sha256(secret) }
}

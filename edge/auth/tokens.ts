// Browser tokens: `ost_<account>_<key id>_<token id>_generate_<expires>_<budget>_<tag>`, issued with a key for web pages that must
// not contain the key. A token is self-contained and signed, so a forged or expired token is rejected before any storage is read. The account
// checks its parent key, so that revoking the key revokes the token, and tracks how much of the budget is spent.

import { timingSafeEqual } from 'hono/utils/buffer'
import type { Peppers } from '../config/secrets.ts'
import { type Credential, checkKey, computeMac, type Grant, type TokenCredential } from './keys.ts'

const TOKEN =
  /^(ost_([a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?)_([0-9a-f]{12})_([0-9a-f]{12})_(generate)_(\d{1,12})_(\d{1,12}))_([0-9a-z])([0-9a-f]{32})$/
export const TOKEN_SECONDS = { min: 10, max: 3600, default: 600 } as const

/** Issues a token for the key `keyId` of an account. It needs no storage. */
export async function issueToken(
  peppers: Peppers,
  { account, keyId }: Pick<Credential, 'account' | 'keyId'>,
  { scope, budget, expires }: Omit<Grant, 'id'>,
): Promise<{ token: string; id: string }> {
  const [pepper] = peppers
  const id = crypto.getRandomValues(new Uint8Array(6)).toHex()
  const body = `ost_${account}_${keyId}_${id}_${scope}_${expires}_${budget}`
  return { token: `${body}_${pepper.version}${(await computeMac(pepper, 'token', body)).slice(0, 32)}`, id }
}

/** Verifies a token's format and tag without reading storage. Returns null if either is invalid. Does not check expiry. */
export async function checkToken(peppers: Peppers, text: string): Promise<TokenCredential | null> {
  const [, body, account, keyId, id, scope, expires, budget, version, tag] = TOKEN.exec(text) ?? []
  const pepper = peppers.find((each) => each.version === version)
  if (!body || !account || !keyId || !id || !tag || !pepper) return null
  if (!(await timingSafeEqual(tag, (await computeMac(pepper, 'token', body)).slice(0, 32)))) return null
  const grant = { id, scope: scope as 'generate', budget: Number(budget), expires: Number(expires) }
  return { account, keyId, token: grant }
}

export const isTokenExpired = ({ expires }: Grant) => expires * 1000 <= Date.now()

/** Verifies a key or a browser token, depending on its prefix. */
export const checkCredential = (peppers: Peppers, text: string): Promise<Credential | null> =>
  text.startsWith('ost_') ? checkToken(peppers, text) : checkKey(peppers, text)

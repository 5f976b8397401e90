// Credentials: `Authorization: Bearer` with an API key or a browser token of a caller, or with the operator's token.
import type { Context } from 'hono'
import { allows } from './account-keys.ts'
import type { EdgeEnv } from './env.ts'
import { ApiError } from './errors.ts'
import type { Credential, Scope } from './keys.ts'
import { objectOf } from './objects.ts'
import { checkCredential, tokenExpired } from './tokens.ts'

export const CHALLENGE = { 'www-authenticate': 'Bearer realm="octet"' }
/** The periods of OUTER_LIMIT and READ_LIMIT in wrangler.toml. */
const OUTER_SECONDS = '10'
const READ_SECONDS = '60'

/** The one answer to a key that is forged, unknown, expired or revoked. Which of them is not told. */
export const unauthorised = () =>
  new ApiError('invalid_api_key', 'This API key is not valid, or it was revoked. Keys look like oct_<account>_….', {
    headers: CHALLENGE,
  })

/** The key is active, but not for this. */
export const forbidden = (scope: Scope) =>
  new ApiError('insufficient_scope', `This needs the scope "${scope}", which this key does not have.`, {
    headers: { 'www-authenticate': `Bearer realm="octet", error="insufficient_scope", scope="${scope}"` },
  })

/** The token of `Authorization: Bearer …`, or null. */
export const bearer = (c: Context<EdgeEnv>) => /^Bearer +(\S+)$/i.exec(c.req.header('authorization') ?? '')?.[1] ?? null

/** Whether the request carries what looks like an API key or a browser token. */
export const hasKey = (c: Context<EdgeEnv>) => /^o(ct|st)_/.test(bearer(c) ?? '')

/** The caller's credential, by its form and its tag alone. Errors: invalid_api_key. */
async function readCredential(c: Context<EdgeEnv>): Promise<Credential> {
  const token = bearer(c)
  if (!token) {
    const message = 'There is no API key. Send it as "Authorization: Bearer oct_…".'
    throw new ApiError('invalid_api_key', message, { headers: CHALLENGE })
  }
  const credential = await checkCredential(c.env.KEY_PEPPER, token)
  if (!credential) throw unauthorised()
  if ('token' in credential && tokenExpired(credential.token)) {
    throw new ApiError('invalid_api_key', 'This browser token has expired; make a new one.', { headers: CHALLENGE })
  }
  return credential
}

/**
 * Checks the tag of the caller's key or browser token and the outer limit, and sets `credential`. It reads no storage: `owner` or `admit`
 * must follow. Errors: invalid_api_key, rate_limited.
 */
export async function verifyCredential(c: Context<EdgeEnv>): Promise<Credential> {
  const credential = await readCredential(c)
  const { success } = await c.env.OUTER_LIMIT.limit({ key: `${credential.account}/${credential.keyId}` })
  if (!success) {
    const message = `There are far too many requests; try again in ${OUTER_SECONDS} s.`
    throw new ApiError('rate_limited', message, { headers: { 'retry-after': OUTER_SECONDS } })
  }
  c.set('credential', credential)
  return credential
}

/**
 * Counts a request that starts no job against its key, or its browser token. Whatever it reads is one object's, which all readers share, so a
 * loop of one client must end here. Errors: rate_limited.
 */
export async function meterRead(c: Context<EdgeEnv>, credential: Credential): Promise<void> {
  const holder = 'token' in credential ? `token/${credential.token.id}` : `key/${credential.keyId}`
  const { success } = await c.env.READ_LIMIT.limit({ key: `${credential.account}/${holder}` })
  if (success) return
  const message = `This ${'token' in credential ? 'browser token' : 'API key'} reads too often; try again in ${READ_SECONDS} s, or wait for jobs with "Prefer: wait" or a webhook.`
  throw new ApiError('rate_limited', message, { headers: { 'retry-after': READ_SECONDS } })
}

async function confirmKey(c: Context<EdgeEnv>, credential: Credential) {
  const answer = await objectOf(c.env.ACCOUNT, credential.account).authenticate(credential)
  if (answer.kind !== 'authenticated') throw unauthorised()
  c.set('key', answer.key)
  return answer.key
}

/**
 * Confirms with the account, once a request, that the key is active and has the scope (any, when null), and returns the credential.
 * Errors: invalid_api_key, insufficient_scope.
 */
export async function owner(c: Context<EdgeEnv>, scope: Scope | null = 'read'): Promise<Credential> {
  const credential = c.get('credential')
  const key = c.get('key') ?? (await confirmKey(c, credential))
  if (scope !== null && !allows(key, credential, scope)) throw forbidden(scope)
  return credential
}

/** The account that is managed: the operator names it, a key may. Errors: invalid_request, insufficient_scope. */
export function managedAccount(c: Context<EdgeEnv>, named: string | undefined): string {
  const own = c.get('manages')?.account
  if (own !== undefined && (named === undefined || named === own)) return own
  if (own !== undefined) throw new ApiError('insufficient_scope', `This key manages the account ${own} alone.`)
  if (named !== undefined) return named
  throw new ApiError('invalid_request', 'account is missing; the operator must name it.', { param: 'account' })
}

// Credentials: `Authorization: Bearer` with an API key or a browser token of a caller, or with the operator's token.

import type { Context } from 'hono'
import { configOf } from '../config.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { describePlace, findKeyText, type KeyPlace } from './key-place.ts'
import type { Credential } from './keys.ts'
import { hasScope } from './keys.ts'
import type { Scope } from './scopes.ts'
import { checkCredential, isTokenExpired } from './tokens.ts'

declare module 'hono' {
  interface ContextVariableMap {
    /** The caller's credential, on routes that accept a key. */
    credential: Credential
    /** The scopes of the credential's key, once confirmed by the account. */
    scopes?: readonly Scope[]
    /** The places of the key in requests of the route's dialect. */
    keyPlaces?: readonly KeyPlace[]
  }
}

export const CHALLENGE = { 'www-authenticate': 'Bearer realm="octet"' }
/** The periods of OUTER_LIMIT and REQUEST_LIMIT in wrangler.toml. */
const OUTER_SECONDS = '10'
const REQUEST_SECONDS = '60'

/** The single error for a forged, unknown, expired or revoked key. It does not disclose the reason. */
export const createUnauthorizedError = () =>
  new ApiError('invalid_api_key', 'This API key is invalid or was revoked. Keys look like oct_<account>_….', {
    headers: CHALLENGE,
  })

/** The error for an active key without the required scope. */
export const createForbiddenError = (scope: Scope) =>
  new ApiError('insufficient_scope', `This request requires the scope "${scope}", which this key does not have.`, {
    headers: { 'www-authenticate': `Bearer realm="octet", error="insufficient_scope", scope="${scope}"` },
  })

const DEFAULT_PLACES: readonly KeyPlace[] = ['Bearer']
/** Places of keys in other APIs. */
const OTHER_PLACES: readonly KeyPlace[] = ['Basic', 'Key', 'Token', 'api-key', 'x-api-key', 'x-key']

/** The token of `Authorization: Bearer …`, or null. */
export const readBearerToken = (c: Context<EdgeEnv>) => findKeyText(DEFAULT_PLACES, (name) => c.req.header(name))

/** Whether the bearer token has the form of an API key or a browser token. */
export const hasKey = (c: Context<EdgeEnv>) => /^o(ct|st)_/.test(readBearerToken(c) ?? '')

/** Parses the caller's credential and verifies its tag, without reading storage. Errors: invalid_api_key. */
async function readCredential(c: Context<EdgeEnv>): Promise<Credential> {
  const places = c.get('keyPlaces') ?? DEFAULT_PLACES
  const token = findKeyText(places, (name) => c.req.header(name))
  if (!token) {
    const unread = OTHER_PLACES.find((place) => findKeyText([place], (name) => c.req.header(name)) !== null)
    const other = unread ? ` This route does not read ${describePlace(unread)}.` : ''
    const message = `The API key is missing. Send it as ${places.map(describePlace).join(' or ')}.${other}`
    throw new ApiError('invalid_api_key', message, { headers: CHALLENGE })
  }
  const credential = await checkCredential(configOf(c.env).peppers, token)
  if (!credential) throw createUnauthorizedError()
  if ('token' in credential && isTokenExpired(credential.token)) {
    throw new ApiError('invalid_api_key', 'This browser token has expired; create a new one.', { headers: CHALLENGE })
  }
  return credential
}

/**
 * Verifies the tag of the caller's key or browser token, and sets `credential`. Storage is not read, so a call to `requireScope` or `admit`
 * must follow. Errors: invalid_api_key.
 */
export async function verifyCredential(c: Context<EdgeEnv>): Promise<Credential> {
  const credential = await readCredential(c)
  c.set('credential', credential)
  return credential
}

/**
 * Applies the outer rate limit, which a key shares with its browser tokens. The request rate limit must precede it, so that a looping
 * visitor does not use up the limit of the others. Errors: rate_limited.
 */
export async function limitKey(c: Context<EdgeEnv>, { account, keyId }: Credential): Promise<void> {
  const { success } = await c.env.OUTER_LIMIT.limit({ key: `${account}/${keyId}` })
  if (success) return
  const message = `Too many requests; try again in ${OUTER_SECONDS} s.`
  throw new ApiError('rate_limited', message, { headers: { 'retry-after': OUTER_SECONDS } })
}

/**
 * Applies the request rate limit of the key or browser token. Every request reaches Durable Objects that are shared with other callers, so a
 * client that loops must be stopped here. Errors: rate_limited.
 */
export async function meterRequest(c: Context<EdgeEnv>, credential: Credential): Promise<void> {
  const holder = 'token' in credential ? `token/${credential.token.id}` : `key/${credential.keyId}`
  const { success } = await c.env.REQUEST_LIMIT.limit({ key: `${credential.account}/${holder}` })
  if (success) return
  const sender = 'token' in credential ? 'browser token' : 'API key'
  const message = `This ${sender} has sent too many requests; try again in ${REQUEST_SECONDS} s, or wait for jobs with "Prefer: wait" or a webhook.`
  throw new ApiError('rate_limited', message, { headers: { 'retry-after': REQUEST_SECONDS } })
}

async function confirmKey(c: Context<EdgeEnv>, credential: Credential) {
  const answer = await objectOf(c.env.ACCOUNT, credential.account).authenticate(credential)
  if (answer.kind !== 'authenticated') throw createUnauthorizedError()
  c.set('scopes', answer.key.scopes)
  return answer.key.scopes
}

/**
 * Confirms with the account, once per request, that the key is active and has the scope (null accepts any), and returns the credential.
 * Errors: invalid_api_key, insufficient_scope.
 */
export async function requireScope(c: Context<EdgeEnv>, scope: Scope | null = 'read'): Promise<Credential> {
  const credential = c.get('credential')
  const scopes = c.get('scopes') ?? (await confirmKey(c, credential))
  if (scope !== null && !hasScope({ scopes }, credential, scope)) throw createForbiddenError(scope)
  return credential
}

/** Returns the account to manage. The operator must name it; for a key it is optional. Errors: invalid_request, insufficient_scope. */
export function requireManagedAccount(c: Context<EdgeEnv>, named: string | undefined): string {
  const own = c.get('manages')?.account
  if (own !== undefined && (named === undefined || named === own)) return own
  if (own !== undefined) throw new ApiError('insufficient_scope', `This key manages only the account ${own}.`)
  if (named !== undefined) return named
  throw new ApiError('invalid_request', 'account is missing; the operator must name it.', { param: 'account' })
}

/** Whether the credential of a long-running request is still valid: it has not expired, and its key is active and has the scope. */
export async function isStillAuthorized(env: Env, credential: Credential, scope: Scope): Promise<boolean> {
  if ('token' in credential && isTokenExpired(credential.token)) return false
  const answer = await objectOf(env.ACCOUNT, credential.account).authenticate(credential)
  return answer.kind === 'authenticated' && hasScope(answer.key, credential, scope)
}

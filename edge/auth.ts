// Who is asking: `Authorization: Bearer` with an API key or a browser token for callers, or the operator's token.
import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import { timingSafeEqual } from 'hono/utils/buffer'
import type { EdgeEnv } from './env.ts'
import { ApiError } from './errors.ts'
import type { Credential, Scope } from './keys.ts'
import { checkCredential, tokenExpired } from './tokens.ts'

const CHALLENGE = { 'www-authenticate': 'Bearer realm="octet"' }
/** The period of OUTER_LIMIT in wrangler.toml. */
const OUTER_SECONDS = '10'

/** The one answer to a key that is forged, unknown or revoked: which of them is nobody's business. */
export const unauthorised = () =>
  new ApiError('invalid_api_key', 'This API key is not valid, or it was revoked. Keys look like oct_<account>_….', {
    headers: CHALLENGE,
  })

/** The key is good, but not for this. */
export const forbidden = (scope: Scope) =>
  new ApiError('insufficient_scope', `This needs the scope "${scope}", which this key does not have.`, {
    headers: { 'www-authenticate': `Bearer realm="octet", error="insufficient_scope", scope="${scope}"` },
  })

/** The token of `Authorization: Bearer …`, or null. */
export const bearer = (c: Context<EdgeEnv>) => /^Bearer +(\S+)$/i.exec(c.req.header('authorization') ?? '')?.[1] ?? null

async function genuine(c: Context<EdgeEnv>): Promise<Credential> {
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
 * Checks the form and the tag of the caller's key or browser token and sets `credential`, within the outer limit. It reads no storage:
 * `owner` or `admit` must follow.
 */
export const keyRequired = createMiddleware<EdgeEnv>(async (c, next) => {
  const credential = await genuine(c)
  const { success } = await c.env.OUTER_LIMIT.limit({ key: `${credential.account}/${credential.keyId}` })
  if (!success) {
    const message = `There are far too many requests; try again in ${OUTER_SECONDS} s.`
    throw new ApiError('rate_limited', message, { headers: { 'retry-after': OUTER_SECONDS } })
  }
  c.set('credential', credential)
  await next()
})

/** Confirms with the account that the key is active and has the scope (any, when null), and returns the credential. */
export async function owner(c: Context<EdgeEnv>, scope: Scope | null = 'read'): Promise<Credential> {
  const credential = c.get('credential')
  const answer = await c.env.ACCOUNT.getByName(credential.account).authenticate(credential, scope ?? undefined)
  if (answer.kind === 'unauthorised') throw unauthorised()
  if (answer.kind === 'forbidden') throw forbidden(scope!)
  return credential
}

async function isOperator(c: Context<EdgeEnv>): Promise<boolean> {
  const token = bearer(c)
  return token !== null && Boolean(c.env.OCTET_ADMIN_TOKEN) && timingSafeEqual(token, c.env.OCTET_ADMIN_TOKEN)
}

/** For the deployment's operator alone, by the secret OCTET_ADMIN_TOKEN. */
export const operatorRequired = createMiddleware<EdgeEnv>(async (c, next) => {
  if (!(await isOperator(c))) {
    const message = 'This needs the operator token: "Authorization: Bearer <OCTET_ADMIN_TOKEN>".'
    throw new ApiError('invalid_admin_token', message, { headers: CHALLENGE })
  }
  await next()
})

/** For `/v1/keys`: the operator, or a key of scope `admin`. Sets `manages`, the account that the key manages, or null for the operator. */
export const managerRequired = createMiddleware<EdgeEnv>(async (c, next) => {
  const key = /^o(ct|st)_/.test(bearer(c) ?? '')
  await (key ? keyRequired : operatorRequired)(c, async () => {})
  c.set('manages', key ? (await owner(c, 'admin')).account : null)
  await next()
})

/** The account that is managed: the operator names it, a key may. Errors: invalid_request, insufficient_scope. */
export function managedAccount(c: Context<EdgeEnv>, named: string | undefined): string {
  const own = c.get('manages')
  if (own !== null && (named === undefined || named === own)) return own
  if (own !== null) throw new ApiError('insufficient_scope', `This key manages the account ${own} alone.`)
  if (named !== undefined) return named
  throw new ApiError('invalid_request', 'account is missing; the operator must name it.', { param: 'account' })
}

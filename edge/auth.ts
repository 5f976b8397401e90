// Who is asking: `Authorization: Bearer` with an API key for callers, or the operator's token for key management.
import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import { timingSafeEqual } from 'hono/utils/buffer'
import type { EdgeEnv } from './env.ts'
import { ApiError } from './errors.ts'
import { type Credential, checkKey } from './keys.ts'

const CHALLENGE = { 'www-authenticate': 'Bearer realm="octet"' }

/** The token of `Authorization: Bearer …`, or null. */
export const bearer = (c: Context<EdgeEnv>) => /^Bearer +(\S+)$/i.exec(c.req.header('authorization') ?? '')?.[1] ?? null

/** The one answer to a key that is forged, unknown or revoked: which of them is nobody's business. */
export const unauthorised = () =>
  new ApiError('invalid_api_key', 'This API key is not valid, or it was revoked. Keys look like oct_<account>_….', {
    headers: CHALLENGE,
  })

/** Checks the form and the tag of the caller's key and sets `credential`. It reads no storage: `owner` or `admit` must follow. */
export const keyRequired = createMiddleware<EdgeEnv>(async (c, next) => {
  const token = bearer(c)
  if (!token) {
    const message = 'There is no API key. Send it as "Authorization: Bearer oct_…".'
    throw new ApiError('invalid_api_key', message, { headers: CHALLENGE })
  }
  const credential = await checkKey(c.env.KEY_PEPPER, token)
  if (!credential) throw unauthorised()
  c.set('credential', credential)
  await next()
})

/** Confirms with the account that the key is known and not revoked, and returns the credential. */
export async function owner(c: Context<EdgeEnv>): Promise<Credential> {
  const credential = c.get('credential')
  if (!(await c.env.ACCOUNT.getByName(credential.account).authenticate(credential))) throw unauthorised()
  return credential
}

/** For `/v1/keys`: the deployment's operator, by the secret OCTET_ADMIN_TOKEN. */
export const operatorRequired = createMiddleware<EdgeEnv>(async (c, next) => {
  const token = bearer(c)
  if (!token || !c.env.OCTET_ADMIN_TOKEN || !(await timingSafeEqual(token, c.env.OCTET_ADMIN_TOKEN))) {
    const message = 'Keys are managed with the operator token: "Authorization: Bearer <OCTET_ADMIN_TOKEN>".'
    throw new ApiError('invalid_admin_token', message, { headers: CHALLENGE })
  }
  await next()
})

// Access rules and body limits of every route, in one table that is enforced before any handler runs. The order of checks: the credential's
// tag, the outer rate limit, the request rate limit, the account (active key, scope), then the body.
import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import { matchedRoutes } from 'hono/route'
import { METHOD_NAME_ALL } from 'hono/router'
import { LIMITS } from '#contract'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { declaredBytes } from '../http/request-body.ts'
import { hasKey, meterRequest, owner, verifyCredential } from './auth.ts'
import type { Scope } from './keys.ts'
import { openLink } from './links.ts'
import { verifyOperator } from './operator-auth.ts'

declare module 'hono' {
  interface ContextVariableMap {
    /** On /v1/keys: the managing key, or null for the operator. */
    manages: { account: string; keyId: string } | null
  }
}

type Access = {
  /** `manager`: the operator or an `admin` key. `link`: a signed link or a key. */
  by: 'anyone' | 'key' | 'link' | 'manager' | 'operator'
  /** The required scope. If omitted, any active key is accepted. */
  scope?: Scope
  /** Whether a browser token is accepted in place of its key. */
  tokens?: true
  /** The body limit in bytes. Defaults to BODY_BYTES. */
  bodyBytes?: number
  /** The handler calls the account's `admit`, which also checks the key; see SMALL_BODY_BYTES. */
  admits?: true
}

/** The default body limit in bytes. */
const BODY_BYTES = 16 * 1024
/**
 * On routes that admit a job, a body with a declared size up to this limit is read before the key is checked: a separate check would cost a
 * second call to the account, and parsing a small body is cheaper than that call. If the request is rejected before `admit` is called, the
 * key is checked afterward, so that callers without an active key always get the same error.
 */
const SMALL_BODY_BYTES = 4 * 1024
/** Error statuses that can occur before the account's `admit` is called. */
const REJECTED_EARLY: ReadonlySet<number> = new Set([400, 403, 413, 415, 422])

const byKey = (scope?: Scope): Access => ({ by: 'key', ...(scope && { scope }) })
const byKeyOrToken = (scope?: Scope): Access => ({ ...byKey(scope), tokens: true })
const generates: Access = { ...byKeyOrToken('generate'), bodyBytes: LIMITS.requestBytes, admits: true }

export const ACCESS: Readonly<Record<string, Access>> = {
  'GET /healthz': { by: 'anyone' },
  'GET /.well-known/jwks.json': { by: 'anyone' },

  'GET /v1/accounts/:account': { by: 'operator' },
  'PATCH /v1/accounts/:account': { by: 'operator' },
  'POST /v1/accounts/:account/credits': { by: 'operator' },
  'GET /v1/accounts/:account/export': { by: 'operator' },
  'DELETE /v1/accounts/:account': { by: 'operator' },
  'GET /v1/account/export': byKey('admin'),
  'DELETE /v1/account': byKey('admin'),
  'GET /v1/operator/status': { by: 'operator' },
  'GET /v1/operator/jobs/:id': { by: 'operator' },

  'POST /v1/keys': { by: 'manager' },
  'GET /v1/keys': { by: 'manager' },
  'GET /v1/keys/:id': { by: 'manager' },
  'PATCH /v1/keys/:id': { by: 'manager' },
  'DELETE /v1/keys/:id': { by: 'manager' },
  'POST /v1/keys/:id/rotate': { by: 'manager' },

  'POST /v1/images/generations': generates,
  'POST /v1/jobs': generates,
  'PUT /v1/jobs/:id': { ...byKey('generate'), bodyBytes: LIMITS.requestBytes, admits: true },
  'POST /v1/quote': { ...byKeyOrToken(), bodyBytes: LIMITS.requestBytes },

  'GET /v1/jobs': byKey('read'),
  'GET /v1/jobs/:id': byKeyOrToken('read'),
  'GET /v1/jobs/:id/events': byKeyOrToken('read'),
  'GET /v1/jobs/:id/receipts': byKeyOrToken('read'),
  'DELETE /v1/jobs/:id': byKeyOrToken('generate'),
  'POST /v1/jobs/:id/cancel': byKeyOrToken('generate'),
  'DELETE /v1/jobs/:id/images': byKeyOrToken('generate'),
  'GET /v1/results/:job/:file': { by: 'link', scope: 'read', tokens: true },
  'DELETE /v1/results/:job/:file': byKeyOrToken('generate'),

  'GET /v1/models': byKeyOrToken(),
  'POST /v1/prewarm': byKeyOrToken('generate'),
  'POST /v1/tokens': byKey('generate'),
  'GET /v1/usage': byKey('read'),

  'POST /v1/webhooks': byKey('admin'),
  'GET /v1/webhooks': byKey('read'),
  'GET /v1/webhooks/default/secret': byKey('admin'),
  'GET /v1/webhooks/:id': byKey('read'),
  'PATCH /v1/webhooks/:id': byKey('admin'),
  'DELETE /v1/webhooks/:id': byKey('admin'),
  'POST /v1/webhooks/:id/rotate': byKey('admin'),
  'POST /v1/webhooks/:id/test': byKey('admin'),
  'GET /v1/webhooks/:id/deliveries': byKey('read'),
  'POST /v1/webhooks/:id/deliveries/:event/replay': byKey('admin'),
  'POST /v1/webhooks/:id/replay': byKey('admin'),
}

/** Checks the caller's key. Returns true if the account has confirmed the key, false if the handler must confirm it. */
async function checkKey(c: Context<EdgeEnv>, { scope, tokens, admits }: Access): Promise<boolean> {
  const credential = await verifyCredential(c)
  if ('token' in credential && !tokens)
    throw new ApiError('insufficient_scope', 'Browser tokens are not accepted here; use the API key.')
  await meterRequest(c, credential)
  if (admits && declaredBytes(c) <= SMALL_BODY_BYTES) return false
  await owner(c, scope ?? null)
  return true
}

async function checkManager(c: Context<EdgeEnv>): Promise<void> {
  if (!hasKey(c)) {
    await verifyOperator(c)
    return c.set('manages', null)
  }
  await checkKey(c, byKey('admin'))
  c.set('manages', c.get('credential'))
}

/** Authorizes the caller or throws. Returns false if the handler must still confirm the key with the account. */
async function check(c: Context<EdgeEnv>, access: Access): Promise<boolean> {
  switch (access.by) {
    case 'key':
      return checkKey(c, access)
    case 'link':
      return (await openLink(c)) || checkKey(c, access)
    case 'manager':
      await checkManager(c)
      return true
    case 'operator':
      await verifyOperator(c)
      return true
    case 'anyone':
      return true
  }
}

/** Enforces the table. A route without an entry throws. */
export const checkAccess = createMiddleware<EdgeEnv>(async (c, next) => {
  const route = matchedRoutes(c).find(({ method }) => method !== METHOD_NAME_ALL)
  if (!route) return next()
  const access = ACCESS[`${route.method} ${route.path}`]
  if (!access) throw new Error(`access.ts has no entry for ${route.method} ${route.path}`)
  const confirmed = await check(c, access)
  c.set('bodyBytes', confirmed ? (access.bodyBytes ?? BODY_BYTES) : SMALL_BODY_BYTES)
  await next()
  if (!confirmed && REJECTED_EARLY.has(c.res.status)) await owner(c, access.scope ?? null)
})

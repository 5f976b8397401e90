// Who may use each route, and how large a body it reads: one table, checked before any handler runs. The order is the tag of the
// credential, the outer limit, the limit of reads, the account (key active, scope), and then the body.
import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import { matchedRoutes } from 'hono/route'
import { METHOD_NAME_ALL } from 'hono/router'
import { LIMITS } from '#contract'
import { hasKey, meterRead, owner, verifyCredential } from './auth.ts'
import type { EdgeEnv } from './env.ts'
import { ApiError } from './errors.ts'
import type { Scope } from './keys.ts'
import { openLink } from './links.ts'
import { verifyOperator } from './operator-auth.ts'
import { declaredBytes } from './request-body.ts'

type Access = {
  /** `manager` is the operator or a key of scope `admin`; `link` is a signed link or a key. */
  by: 'anyone' | 'key' | 'link' | 'manager' | 'operator'
  /** What the key must have; any active key will do when left out. */
  scope?: Scope
  /** Whether a browser token may stand for its key. */
  tokens?: true
  /** The most that a body may have; BODY_BYTES when left out. */
  bodyBytes?: number
  /** The handler has the account admit a job, which checks the key in the same call: see SMALL_BODY_BYTES. */
  admits?: true
}

/** The most bytes of a body where the table names no other limit. */
const BODY_BYTES = 16 * 1024
/**
 * Where the account admits a job, a body of a declared size up to this is read first: checking the key before it would cost a second call
 * to the account, and parsing so little costs less than that call. If the request is then refused without the account's answer, the key
 * is checked after all, so that nobody without an active key learns anything else.
 */
const SMALL_BODY_BYTES = 4 * 1024
/** Statuses of refusals that come before the account is asked to admit. */
const REFUSED_UNASKED: ReadonlySet<number> = new Set([400, 413, 415, 422])

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

/** Checks the caller's key. True when the account has confirmed it, false where that is left to the handler. */
async function checkKey(c: Context<EdgeEnv>, { scope, tokens, admits }: Access): Promise<boolean> {
  const credential = await verifyCredential(c)
  if ('token' in credential && !tokens)
    throw new ApiError('insufficient_scope', 'A browser token may not use this; use its API key.')
  if (!admits) await meterRead(c, credential)
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

/** Lets the caller pass, or throws. False where the handler must still have the account check the key. */
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

/** Applies the table. A route that it lacks cannot be used. */
export const checkAccess = createMiddleware<EdgeEnv>(async (c, next) => {
  const route = matchedRoutes(c).find(({ method }) => method !== METHOD_NAME_ALL)
  if (!route) return next()
  const access = ACCESS[`${route.method} ${route.path}`]
  if (!access) throw new Error(`access.ts has no entry for ${route.method} ${route.path}`)
  const confirmed = await check(c, access)
  c.set('bodyBytes', confirmed ? (access.bodyBytes ?? BODY_BYTES) : SMALL_BODY_BYTES)
  await next()
  if (!confirmed && REFUSED_UNASKED.has(c.res.status)) await owner(c, access.scope ?? null)
})

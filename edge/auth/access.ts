// Enforces the access rules and body limits of routes before any handler runs. The order of checks: the credential's
// tag, the request rate limit, the outer rate limit, the account (active key, scope), then the body.
import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import { matchedRoutes } from 'hono/route'
import { METHOD_NAME_ALL } from 'hono/router'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { readDeclaredBytes } from '../http/request-body.ts'
import { hasKey, limitKey, meterRequest, requireScope, verifyCredential } from './auth.ts'
import { verifyLink } from './links.ts'
import { verifyOperator } from './operator-auth.ts'
import type { Scope } from './scopes.ts'

declare module 'hono' {
  interface ContextVariableMap {
    /** On /v1/keys: the managing key, or null for the operator. */
    manages: { account: string; keyId: string } | null
  }
}

/** The access rule of a route. */
export type Access = {
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

/** The rule of routes that accept any active key. */
export const allowKey = (scope?: Scope): Access => ({ by: 'key', ...(scope && { scope }) })
export const allowKeyOrToken = (scope?: Scope): Access => ({ ...allowKey(scope), tokens: true })
/** The limit of a body with input images. A body without one has at most `LIMITS.requestBytes`. */
export const UPLOAD_BYTES = 12 * 1024 * 1024
/** The rule of routes that submit a job. */
export const generates: Access = { ...allowKeyOrToken('generate'), bodyBytes: UPLOAD_BYTES, admits: true }

/** Checks the caller's key. Returns true if the account has confirmed the key, false if the handler must confirm it. */
async function checkKey(c: Context<EdgeEnv>, { scope, tokens, admits }: Access): Promise<boolean> {
  const credential = await verifyCredential(c)
  if ('token' in credential && !tokens)
    throw new ApiError('insufficient_scope', 'Browser tokens are not accepted here; use the API key.')
  await meterRequest(c, credential)
  await limitKey(c, credential)
  if (admits && readDeclaredBytes(c) <= SMALL_BODY_BYTES) return false
  await requireScope(c, scope ?? null)
  return true
}

async function checkManager(c: Context<EdgeEnv>): Promise<void> {
  if (!hasKey(c)) {
    await verifyOperator(c)
    return c.set('manages', null)
  }
  await checkKey(c, allowKey('admin'))
  c.set('manages', c.get('credential'))
}

/** Authorizes the caller or throws. Returns false if the handler must still confirm the key with the account. */
async function check(c: Context<EdgeEnv>, access: Access): Promise<boolean> {
  switch (access.by) {
    case 'key':
      return checkKey(c, access)
    case 'link':
      return (await verifyLink(c)) || checkKey(c, access)
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

/** Enforces the rules of `table`, by method and path of the route. A route without an entry throws. */
export const checkAccess = (table: Readonly<Record<string, Access>>) =>
  createMiddleware<EdgeEnv>(async (c, next) => {
    const route = matchedRoutes(c).find(({ method }) => method !== METHOD_NAME_ALL)
    if (!route) return next()
    const access = table[`${route.method} ${route.path}`]
    if (!access) throw new Error(`routes/access.ts has no entry for ${route.method} ${route.path}`)
    const confirmed = await check(c, access)
    c.set('bodyBytes', confirmed ? (access.bodyBytes ?? BODY_BYTES) : SMALL_BODY_BYTES)
    await next()
    const status = c.get('problemStatus')
    if (!confirmed && status !== undefined && REJECTED_EARLY.has(status)) await requireScope(c, access.scope ?? null)
  })

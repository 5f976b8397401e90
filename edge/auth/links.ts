// Signed links: each grants access to one file, or to the events of one job, without a key, until the link expires or its key is revoked.

import type { Context } from 'hono'
import { timingSafeEqual } from 'hono/utils/buffer'
import type { Peppers } from '../config/secrets.ts'
import { configOf } from '../config.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { hasKey } from './auth.ts'
import { computeMac, KEY_ID } from './keys.ts'

/** The signed content of a link. `key` is the id of the requesting key, or null for the key that created the job. */
export type Link = { path: string; expires: number; key: string | null }

const textOf = ({ path, expires, key }: Link) => `${path}?exp=${expires}${key === null ? '' : `&key=${key}`}`

/** Signs a link that is valid until `expires` (Unix seconds) and returns it: `<path>?exp=…&key=…&sig=…`. */
export async function signLink(peppers: Peppers, link: Link): Promise<string> {
  const [pepper] = peppers
  const text = textOf(link)
  return `${text}&sig=${pepper.version}${await computeMac(pepper, 'link', text)}`
}

/** Verifies a signature by `signLink` under any configured pepper. */
export async function checkLink(peppers: Peppers, link: Link, signature: string): Promise<boolean> {
  const pepper = peppers.find((each) => each.version === signature[0])
  return pepper !== undefined && timingSafeEqual(signature.slice(1), await computeMac(pepper, 'link', textOf(link)))
}

/** A verified link: its remaining lifetime in seconds, and the requesting key. */
export type OpenLink = { seconds: number; key: string | null }

declare module 'hono' {
  interface ContextVariableMap {
    /** The verified signed link. Unset if the caller has sent a key. */
    link?: OpenLink
  }
}

const createInvalidLinkError = () =>
  new ApiError('link_invalid', 'The signature does not match this URL. Fetch the job again to get a new link.')

async function readLink(
  c: Context<EdgeEnv>,
  exp: string,
  key: string | null,
  sig: string,
): Promise<OpenLink | ApiError> {
  if (!/^\d{1,12}$/.test(exp) || (key !== null && !KEY_ID.test(key))) return createInvalidLinkError()
  const expires = Number(exp)
  if (!(await checkLink(configOf(c.env).peppers, { path: c.req.path, expires, key }, sig)))
    return createInvalidLinkError()
  const seconds = expires - Math.floor(Date.now() / 1000)
  if (seconds > 0) return { seconds, key }
  return new ApiError('link_expired', 'This link has expired. Fetch the job again to get a new one.')
}

/**
 * Verifies the request's signed link and sets `link`; a valid link takes precedence over the Authorization header. Returns false if there
 * is no link, or if the link is invalid and the request has an API key. Errors: link_invalid, link_expired.
 */
export async function verifyLink(c: Context<EdgeEnv>): Promise<boolean> {
  const { exp, key = null, sig } = c.req.query()
  if (exp === undefined || sig === undefined) return false
  const link = await readLink(c, exp, key, sig)
  if (!(link instanceof ApiError)) {
    c.set('link', link)
    return true
  }
  if (hasKey(c)) return false
  throw link
}

/** The error of a link whose key is no longer active. */
export const createLinkRevokedError = () =>
  new ApiError('link_revoked', 'The API key of this link is no longer active. Fetch the job again with another key.')

/** Lifetime of a key's cached state in an isolate. Links of a revoked key may remain valid for this time. */
const CACHED_MS = 5_000
const MAX_CACHED = 10_000
/** This isolate's cache of account responses: whether the links of a key are valid. */
const cache = new Map<string, { isValid: boolean; until: number }>()

/** Whether the links of a key are valid: the key was not revoked, and it or a key of its lineage is active. The result is at most 5 s old. */
export async function areLinksValid(env: Pick<Env, 'ACCOUNT'>, account: string, key: string): Promise<boolean> {
  const name = `${account}/${key}`
  const cached = cache.get(name)
  if (cached && cached.until > Date.now()) return cached.isValid
  const isValid = await objectOf(env.ACCOUNT, account).areLinksValid(key)
  if (cache.size >= MAX_CACHED) cache.clear()
  cache.set(name, { isValid, until: Date.now() + CACHED_MS })
  return isValid
}

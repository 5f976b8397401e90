// Signed links: they open one file without a key, until they expire or the key behind them is revoked.
import type { Context } from 'hono'
import { timingSafeEqual } from 'hono/utils/buffer'
import { hasKey } from './auth.ts'
import type { EdgeEnv, Env } from './env.ts'
import { ApiError } from './errors.ts'
import { KEY_ID, mac, parsePeppers } from './keys.ts'
import { objectOf } from './objects.ts'

/** What a link says. `key` is the id of the key that asked for it; null stands for the key that made the job. */
export type Link = { path: string; expires: number; key: string | null }

const textOf = ({ path, expires, key }: Link) => `${path}?exp=${expires}${key === null ? '' : `&key=${key}`}`

/** Signs a link up to `expires` (Unix seconds) and returns it: `<path>?exp=…&key=…&sig=…`. */
export async function signLink(peppers: string, link: Link): Promise<string> {
  const [pepper] = parsePeppers(peppers)
  const text = textOf(link)
  return `${text}&sig=${pepper.version}${await mac(pepper, 'link', text)}`
}

/** Whether `signature` was made by `signLink` for this link, under any pepper that is still listed. */
export async function checkLink(peppers: string, link: Link, signature: string): Promise<boolean> {
  const pepper = parsePeppers(peppers).find((each) => each.version === signature[0])
  return pepper !== undefined && timingSafeEqual(signature.slice(1), await mac(pepper, 'link', textOf(link)))
}

/** A link that was opened: the seconds that it still holds, and the key that asked for it. */
export type OpenLink = { seconds: number; key: string | null }

const invalid = () =>
  new ApiError('link_invalid', 'The signature does not fit this address. Ask for the job again to get a new link.')

async function readLink(
  c: Context<EdgeEnv>,
  exp: string,
  key: string | null,
  sig: string,
): Promise<OpenLink | ApiError> {
  if (!/^\d{1,12}$/.test(exp) || (key !== null && !KEY_ID.test(key))) return invalid()
  const expires = Number(exp)
  if (!(await checkLink(c.env.KEY_PEPPER, { path: c.req.path, expires, key }, sig))) return invalid()
  const seconds = expires - Math.floor(Date.now() / 1000)
  if (seconds > 0) return { seconds, key }
  return new ApiError('link_expired', 'This link has expired. Ask for the job again to get a new one.')
}

/**
 * Opens the request's signed link and sets `link`, whatever its Authorization header says. False when there is none, or none that holds
 * beside an API key. Errors: link_invalid, link_expired.
 */
export async function openLink(c: Context<EdgeEnv>): Promise<boolean> {
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

/** How long a revoked key's links may still open where one was opened just before. */
const REMEMBERED_MS = 5_000
const MOST_REMEMBERED = 10_000
/** What accounts answered to this isolate: whether the links of a key hold. */
const remembered = new Map<string, { holds: boolean; until: number }>()

/** Whether links of a key hold: it was not revoked, and it or a key that replaced it is active. The answer is at most 5 s old. */
export async function keyHoldsLinks(env: Pick<Env, 'ACCOUNT'>, account: string, key: string): Promise<boolean> {
  const name = `${account}/${key}`
  const known = remembered.get(name)
  if (known && known.until > Date.now()) return known.holds
  const holds = await objectOf(env.ACCOUNT, account).keyHoldsLinks(key)
  if (remembered.size >= MOST_REMEMBERED) remembered.clear()
  remembered.set(name, { holds, until: Date.now() + REMEMBERED_MS })
  return holds
}

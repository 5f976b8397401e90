import { type Context, Hono } from 'hono'
import * as z from 'zod'
import type { KeyInfo } from '../account-keys.ts'
import { managedAccount, managerRequired } from '../auth.ts'
import type { EdgeEnv } from '../env.ts'
import { ApiError } from '../errors.ts'
import { ACCOUNT_NAME, issueKey, KEY_ID, SCOPES } from '../keys.ts'
import { limits, limitsChange, UNLIMITED } from '../limits.ts'
import { parseFields, readJson } from '../validation.ts'

const YEARS = 10 * 365 * 24 * 3600
const seconds = (most: number) => z.int().min(0).max(most).describe(`a whole number of seconds up to ${most}`)
const account = z.string().regex(ACCOUNT_NAME).describe('1 to 32 of a-z, 0-9 and "-", not at an end').optional()
const label = z.string().max(100).describe('a text of at most 100 characters')
const scopes = z
  .array(z.enum(SCOPES))
  .min(1)
  .transform((given) => [...new Set(given)])
  .describe(`a list of ${SCOPES.join(', ')}`)
const expires_in = seconds(YEARS).nullable().describe('null for never, or a whole number of seconds from now')

const newKey = z.strictObject({
  account,
  label: label.default(''),
  scopes: scopes.default(['generate', 'read']),
  limits: limits.default(UNLIMITED),
  expires_in: expires_in.default(null),
})
const change = z.strictObject({
  label: label.optional(),
  scopes: scopes.optional(),
  limits: limitsChange.optional(),
  expires_in: expires_in.optional(),
})
const rotation = z.strictObject({ overlap_seconds: seconds(30 * 24 * 3600).default(24 * 3600) })
const query = z.strictObject({ account })
const unstored = { 'cache-control': 'no-store' }

const unix = (milliseconds: number | null) => (milliseconds === null ? null : Math.floor(milliseconds / 1000))
const shown = ({ created, expires, revoked, ...key }: KeyInfo) => ({
  ...key,
  created: unix(created),
  expires: unix(expires),
  revoked: unix(revoked),
})
const fromNow = (after: number | null) => (after === null ? null : Date.now() + after * 1000)

/** The account that the request is about, and its object. */
function opened(c: Context<EdgeEnv>) {
  const account = managedAccount(c, parseFields(query, query.shape, c.req.query()).account)
  return { account, object: c.env.ACCOUNT.getByName(account) }
}

/** The key of the path, or not_found when `find` finds none. */
async function existing<T>(c: Context<EdgeEnv>, account: string, find: (id: string) => Promise<T | null>): Promise<T> {
  const id = c.req.param('id') ?? ''
  const found = KEY_ID.test(id) ? await find(id) : null
  if (found === null) throw new ApiError('not_found', `Account ${account} has no key ${id}.`)
  return found
}

/** Keys of an account, for its keys of scope `admin` and for the operator. A key's text is in the reply that makes it and nowhere else. */
export const keys = new Hono<EdgeEnv>()
  .use(managerRequired)
  .post('/', async (c) => {
    const { expires_in, account: named, ...options } = parseFields(newKey, newKey.shape, await readJson(c.req.raw))
    const account = managedAccount(c, named)
    const { key, credential } = await issueKey(c.env.KEY_PEPPER, account)
    const info = await c.env.ACCOUNT.getByName(account).addKey(credential, { ...options, expires: fromNow(expires_in) })
    return c.json({ ...shown(info), account, key }, 201, unstored)
  })
  .get('/', async (c) => {
    const { object } = opened(c)
    return c.json({ object: 'list', data: (await object.keys()).map(shown) }, 200, unstored)
  })
  .get('/:id', async (c) => {
    const { account, object } = opened(c)
    const { captured, reserved, open, ...key } = await existing(c, account, (id) => object.key(id))
    const used = { spent_microdollars: captured, reserved_microdollars: reserved, open_jobs: open }
    return c.json({ ...shown(key), account, used }, 200, unstored)
  })
  .patch('/:id', async (c) => {
    const { account, object } = opened(c)
    const { expires_in, ...given } = parseFields(change, change.shape, await readJson(c.req.raw))
    const expiry = expires_in === undefined ? {} : { expires: fromNow(expires_in) }
    const changed = Object.fromEntries(
      Object.entries({ ...given, ...expiry }).filter(([, value]) => value !== undefined),
    )
    const key = await existing(c, account, (id) => object.changeKey(id, changed))
    return c.json({ ...shown(key), account }, 200, unstored)
  })
  .post('/:id/rotate', async (c) => {
    const { account, object } = opened(c)
    const { overlap_seconds } = parseFields(rotation, rotation.shape, await readJson(c.req.raw))
    const { key, credential } = await issueKey(c.env.KEY_PEPPER, account)
    const until = Date.now() + overlap_seconds * 1000
    const info = await existing(c, account, (id) => object.rotateKey(id, credential, until))
    return c.json({ ...shown(info), account, key, replaces: c.req.param('id') }, 201, unstored)
  })
  .delete('/:id', async (c) => {
    const { account, object } = opened(c)
    await existing(c, account, async (id) => (await object.revokeKey(id)) || null)
    return c.body(null, 204)
  })

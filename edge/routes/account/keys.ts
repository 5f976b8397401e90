import { type Context, Hono } from 'hono'
import * as z from 'zod'
import type { KeyInfo, ListedKey } from '../../accounts/keys/key-info.ts'
import { type KeyOutcome, type KeyRefusal, MAX_ACTIVE_KEYS } from '../../accounts/keys/key-management.ts'
import { createUnauthorizedError, requireManagedAccount } from '../../auth/auth.ts'
import { ACCOUNT_NAME, issueKey, KEY_ID } from '../../auth/keys.ts'
import { SCOPES } from '../../auth/scopes.ts'
import { limitsChange } from '../../config/limits.ts'
import { configOf } from '../../config.ts'
import type { EdgeEnv } from '../../http/context.ts'
import { ApiError } from '../../http/errors.ts'
import { formatValue, parseFields, readJson, readOptionalJson } from '../../http/validation.ts'
import { objectOf } from '../../platform/durable-objects.ts'
import { toUnixSeconds } from '../../platform/units.ts'
import type { KeyUse } from '../replies.ts'

const YEARS = 10 * 365 * 24 * 3600
const seconds = (max: number) => z.int().min(0).max(max).describe(`a whole number of seconds up to ${max}`)
const account = z.string().regex(ACCOUNT_NAME).describe('1 to 32 of a-z, 0-9 and "-", not at an end').optional()
const label = z.string().max(100).describe('a text of at most 100 characters')
const scopes = z
  .array(z.enum(SCOPES))
  .min(1)
  .max(10)
  .transform((given) => [...new Set(given)])
  .describe(`a list of ${SCOPES.join(', ')}`)
const expires_in = seconds(YEARS).nullable().describe('null for never, or a whole number of seconds from now')

export const change = z.strictObject({
  label: label.optional(),
  scopes: scopes.optional(),
  limits: limitsChange.optional(),
  expires_in: expires_in.optional(),
})
export const newKey = z.strictObject({ account, ...change.shape })
export const rotation = z.strictObject({ overlap_seconds: seconds(30 * 24 * 3600).default(24 * 3600) })
export const query = z.strictObject({ account })

const viewOf = <Key extends KeyInfo | ListedKey>({ created, expires, revoked, ...key }: Key) => ({
  ...key,
  created: toUnixSeconds(created),
  expires: toUnixSeconds(expires),
  revoked: toUnixSeconds(revoked),
})

/** Returns the fields of a key that the request sets. */
function changeOf({ expires_in, ...given }: z.infer<typeof change>) {
  const expires = expires_in == null ? expires_in : Date.now() + expires_in * 1000
  return Object.fromEntries(Object.entries({ ...given, expires }).filter(([, value]) => value !== undefined))
}

/** Returns the managed account, its object, and the id of the managing key, or null for the operator. */
function findManaged(c: Context<EdgeEnv>) {
  const account = requireManagedAccount(c, parseFields(query, query.shape, c.req.query()).account)
  return { account, object: objectOf(c.env.ACCOUNT, account), by: c.get('manages')?.keyId ?? null }
}

const createNotFoundError = (account: string, id: string) =>
  new ApiError('not_found', `Account ${account} has no key ${formatValue(id)}; GET /v1/keys lists them.`)

/** Validates the key id in the path. Errors: not_found if it is malformed. */
function idOf(c: Context<EdgeEnv>, account: string): string {
  const id = c.req.param('id') ?? ''
  if (KEY_ID.test(id)) return id
  throw createNotFoundError(account, id)
}

const createConflictError = (code: 'key_ended' | 'too_many_keys', message: string) =>
  new ApiError(code, message, { headers: { 'x-should-retry': 'false' } })
const createNotGrantedError = (message: string, param?: string) =>
  new ApiError('insufficient_scope', message, param === undefined ? {} : { param })

function refusalError(refusal: KeyRefusal, account: string, id: string): ApiError {
  switch (refusal.kind) {
    case 'absent':
      return createNotFoundError(account, id)
    case 'unauthorized':
      return createUnauthorizedError()
    case 'ended':
      return createConflictError(
        'key_ended',
        `The key ${id} ${refusal.revoked ? 'was revoked' : 'has expired'} and cannot be reactivated; make a new one.`,
      )
    case 'too_many':
      return createConflictError(
        'too_many_keys',
        `Account ${account} has the maximum of ${MAX_ACTIVE_KEYS} active keys; revoke one first, or rotate with overlap_seconds 0.`,
      )
    case 'own_line':
      return createNotGrantedError(
        'A key may change only its own label, and may not manage its ancestors; use a key that manages them, or ask the operator.',
      )
    case 'not_descended':
      return createNotGrantedError('This key has limits, so it may change only its descendants.')
    case 'exceeds': {
      const [param] = refusal.fields
      return createNotGrantedError(
        `A key cannot grant more than its own rights; ${refusal.fields.join(', ')} would exceed them.`,
        param,
      )
    }
    case 'too_deep':
      return createNotGrantedError(
        'This key is too many generations removed from the operator to create keys; use one of its ancestors.',
      )
  }
}

function keyOf(outcome: KeyOutcome, account: string, id: string): KeyInfo {
  if (outcome.kind === 'done') return outcome.key
  throw refusalError(outcome, account, id)
}

/** Keys of an account, for its `admin` keys and for the operator. A key's secret is returned only once, on creation. */
export const keys = new Hono<EdgeEnv>()
  .post('/', async (c) => {
    const { account: named, ...given } = parseFields(newKey, newKey.shape, await readJson(c))
    const account = requireManagedAccount(c, named)
    const { key, credential } = await issueKey(configOf(c.env).peppers, account)
    const by = c.get('manages')?.keyId ?? null
    const outcome = await objectOf(c.env.ACCOUNT, account).addKey(credential, changeOf(given), by)
    return c.json({ ...viewOf(keyOf(outcome, account, credential.keyId)), account, key }, 201)
  })
  .get('/', async (c) => {
    const { object } = findManaged(c)
    return c.json({ object: 'list', data: (await object.keys()).map(viewOf) })
  })
  .get('/:id', async (c) => {
    const { account, object } = findManaged(c)
    const found = await object.key(idOf(c, account))
    if (!found) throw createNotFoundError(account, idOf(c, account))
    const { captured, reserved, open, ...key } = found
    const used: KeyUse = { spent_microdollars: captured, reserved_microdollars: reserved, open_jobs: open }
    return c.json({ ...viewOf(key), account, used })
  })
  .patch('/:id', async (c) => {
    const { account, object, by } = findManaged(c)
    const id = idOf(c, account)
    const given = changeOf(parseFields(change, change.shape, await readJson(c)))
    return c.json({ ...viewOf(keyOf(await object.changeKey(id, given, by), account, id)), account })
  })
  .post('/:id/rotate', async (c) => {
    const { account, object, by } = findManaged(c)
    const id = idOf(c, account)
    const { overlap_seconds } = parseFields(rotation, rotation.shape, await readOptionalJson(c))
    const { key, credential } = await issueKey(configOf(c.env).peppers, account)
    const outcome = await object.rotateKey(id, credential, Date.now() + overlap_seconds * 1000, by)
    return c.json({ ...viewOf(keyOf(outcome, account, id)), account, key, replaces: id }, 201)
  })
  .delete('/:id', async (c) => {
    const { account, object, by } = findManaged(c)
    const id = idOf(c, account)
    keyOf(await object.revokeKey(id, by), account, id)
    return c.body(null, 204)
  })

import { Hono } from 'hono'
import * as z from 'zod'
import { operatorRequired } from '../auth.ts'
import type { EdgeEnv } from '../env.ts'
import { ApiError } from '../errors.ts'
import { ACCOUNT_NAME, issueKey, KEY_ID } from '../keys.ts'
import { parseFields, readJson } from '../validation.ts'

const account = z.string().regex(ACCOUNT_NAME).describe('1 to 32 of a-z, 0-9 and "-", not at an end')
const newKey = z.strictObject({
  account,
  label: z.string().max(100).default('').describe('a text of at most 100 characters'),
})
const query = z.strictObject({ account })
const id = z.string().regex(KEY_ID)

/** Keys of an account, for the operator. A key's text is in the reply that creates it and nowhere else. */
export const keys = new Hono<EdgeEnv>()
  .use(operatorRequired)
  .post('/', async (c) => {
    const { account, label } = parseFields(newKey, newKey.shape, await readJson(c.req.raw))
    const { key, credential } = await issueKey(c.env.KEY_PEPPER, account)
    await c.env.ACCOUNT.getByName(account).addKey(credential, label)
    return c.json({ id: credential.keyId, account, label, key }, 201, { 'cache-control': 'no-store' })
  })
  .get('/', async (c) => {
    const { account } = parseFields(query, query.shape, c.req.query())
    return c.json({ object: 'list', data: await c.env.ACCOUNT.getByName(account).keys() })
  })
  .delete('/:id', async (c) => {
    const { account } = parseFields(query, query.shape, c.req.query())
    const known = id.safeParse(c.req.param('id')).success
    if (!known || !(await c.env.ACCOUNT.getByName(account).revokeKey(c.req.param('id')))) {
      throw new ApiError('not_found', `Account ${account} has no key ${c.req.param('id')}.`)
    }
    return c.body(null, 204)
  })

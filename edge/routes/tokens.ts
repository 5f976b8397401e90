import { Hono } from 'hono'
import * as z from 'zod'
import { owner } from '../auth.ts'
import type { EdgeEnv } from '../env.ts'
import { ApiError } from '../errors.ts'
import { MICRODOLLARS } from '../price.ts'
import { issueToken, TOKEN_SECONDS } from '../tokens.ts'
import { parseFields, readJson } from '../validation.ts'

const budget = 100 * MICRODOLLARS
const newToken = z.strictObject({
  scope: z.enum(['generate', 'read']).describe('generate or read'),
  budget_microdollars: z
    .int()
    .min(0)
    .max(budget)
    .describe(`a whole number of micro-dollars up to ${budget}`)
    .default(0),
  expires_in: z
    .int()
    .min(TOKEN_SECONDS.min)
    .max(TOKEN_SECONDS.max)
    .describe(`a whole number of seconds from ${TOKEN_SECONDS.min} to ${TOKEN_SECONDS.max}`)
    .default(TOKEN_SECONDS.default),
})

/** Short-lived tokens for a browser, made with a key that has their scope. Each has a budget of its own within the key's limits. */
export const tokens = new Hono<EdgeEnv>().post('/', async (c) => {
  const fields = parseFields(newToken, newToken.shape, await readJson(c))
  const credential = await owner(c, fields.scope)
  if (fields.scope === 'generate' && fields.budget_microdollars === 0) {
    const message = 'budget_microdollars is 0; a token of scope "generate" must be allowed to spend something.'
    throw new ApiError('invalid_request', message, { param: 'budget_microdollars' })
  }
  const expires = Math.floor(Date.now() / 1000) + fields.expires_in
  const grant = { scope: fields.scope, budget: fields.budget_microdollars, expires }
  const { token, id } = await issueToken(c.env.KEY_PEPPER, credential, grant)
  return c.json({ object: 'token', id, key_id: credential.keyId, ...fields, expires, token }, 201)
})

import { Hono } from 'hono'
import * as z from 'zod'
import { requireScope } from '../../auth/auth.ts'
import { issueToken, TOKEN_SECONDS } from '../../auth/tokens.ts'
import { configOf } from '../../config.ts'
import type { EdgeEnv } from '../../http/context.ts'
import { parseFields, readJson } from '../../http/validation.ts'
import { MICRODOLLARS } from '../../platform/units.ts'

const budget = 100 * MICRODOLLARS
export const newToken = z.strictObject({
  scope: z
    .literal('generate')
    .default('generate')
    .describe('"generate", which includes read access to the token\'s own jobs'),
  budget_microdollars: z.int().min(1).max(budget).describe(`a whole number of micro-dollars from 1 to ${budget}`),
  expires_in: z
    .int()
    .min(TOKEN_SECONDS.min)
    .max(TOKEN_SECONDS.max)
    .describe(`a whole number of seconds from ${TOKEN_SECONDS.min} to ${TOKEN_SECONDS.max}`)
    .default(TOKEN_SECONDS.default),
})

/**
 * Issues short-lived browser tokens, with a key that has the `generate` scope. A token can read, stream, cancel and delete only its own
 * jobs, and has its own budget within the key's limits.
 */
export const tokens = new Hono<EdgeEnv>().post('/', async (c) => {
  const fields = parseFields(newToken, newToken.shape, await readJson(c))
  const credential = await requireScope(c, 'generate')
  const expires = Math.floor(Date.now() / 1000) + fields.expires_in
  const grant = { scope: fields.scope, budget: fields.budget_microdollars, expires }
  const { token, id } = await issueToken(configOf(c.env).peppers, credential, grant)
  return c.json({ object: 'token', id, key_id: credential.keyId, ...fields, expires, token }, 201)
})

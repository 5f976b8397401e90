import { Hono } from 'hono'
import { checkKey } from '../auth/keys.ts'
import { issueToken } from '../auth/tokens.ts'
import { configOf } from '../config.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { readText } from '../http/request-body.ts'

/** The period of VISITOR_LIMIT in wrangler.toml. */
const VISITOR_SECONDS = '60'

/**
 * Browser tokens for visitors of the playground, on the budget of the operator's PLAYGROUND_KEY. `token` is null if the operator has set no
 * such key. The body is ignored. Errors: body_too_large, rate_limited.
 */
export const playground = new Hono<EdgeEnv>().post('/tokens', async (c) => {
  await readText(c)
  const { peppers, playgroundKey, playgroundTokens } = configOf(c.env)
  const credential = playgroundKey === null ? null : await checkKey(peppers, playgroundKey)
  if (!credential) return c.json({ object: 'token', token: null })
  const { success } = await c.env.VISITOR_LIMIT.limit({ key: c.req.header('cf-connecting-ip') ?? '' })
  if (!success) {
    const message = `Too many tokens were created from this address; try again in ${VISITOR_SECONDS} s.`
    throw new ApiError('rate_limited', message, { headers: { 'retry-after': VISITOR_SECONDS } })
  }
  const { token_microdollars: budget, token_seconds } = playgroundTokens
  const expires = Math.floor(Date.now() / 1000) + token_seconds
  const { token, id } = await issueToken(peppers, credential, { scope: 'generate', budget, expires })
  return c.json({ object: 'token', id, budget_microdollars: budget, expires, token }, 201)
})

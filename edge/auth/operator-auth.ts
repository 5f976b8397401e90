// Operator authentication with the secret OCTET_ADMIN_TOKEN. It grants access to every account, so failures are rate-limited and logged.
import type { Context } from 'hono'
import { timingSafeEqual } from 'hono/utils/buffer'
import { MIN_TOKEN_CHARACTERS } from '../config/secrets.ts'
import { configOf } from '../config.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { log } from '../platform/log.ts'
import { CHALLENGE, readBearerToken } from './auth.ts'
import { computeMac } from './keys.ts'

/** The period of OPERATOR_LIMIT in wrangler.toml, and the lockout of an address that exceeds it. */
const LOCKOUT_SECONDS = 60
const MAX_LOCKED = 10_000

/** The end of the lockout (Unix milliseconds) by address, in this isolate. OPERATOR_LIMIT is shared by all isolates of a location. */
const locked = new Map<string, number>()
let isLogged = false

/** Returns the operator token, or null if none is configured, which is logged once. */
function readOperatorToken(env: Env): string | null {
  const { adminToken } = configOf(env)
  if (adminToken === null && !isLogged)
    log('error', `OCTET_ADMIN_TOKEN must have at least ${MIN_TOKEN_CHARACTERS} random characters`)
  isLogged ||= adminToken === null
  return adminToken
}

const createInvalidTokenError = (message: string) =>
  new ApiError('invalid_admin_token', message, { headers: CHALLENGE })

const createLockedOutError = () =>
  new ApiError('rate_limited', `Too many wrong operator tokens; try again in ${LOCKOUT_SECONDS} s.`, {
    headers: { 'retry-after': String(LOCKOUT_SECONDS) },
  })

/** Returns a keyed hash of the caller's address, because addresses must not be logged. */
async function hashAddress(c: Context<EdgeEnv>): Promise<string> {
  const [pepper] = configOf(c.env).peppers
  return (await computeMac(pepper, 'address', c.req.header('cf-connecting-ip') ?? '')).slice(0, 16)
}

/** Logs a wrong token and counts it against the client's address. Errors: rate_limited. */
async function countFailure(c: Context<EdgeEnv>, client: string): Promise<void> {
  log('warn', 'a wrong operator token', { client, path: c.req.path.slice(0, 100), request_id: c.get('requestId') })
  const { success } = await c.env.OPERATOR_LIMIT.limit({ key: client })
  if (success) return
  if (locked.size >= MAX_LOCKED) locked.clear()
  locked.set(client, Date.now() + LOCKOUT_SECONDS * 1000)
  throw createLockedOutError()
}

/** Authenticates the operator. A locked-out address is rejected even with the correct token. Errors: invalid_admin_token, rate_limited. */
export async function verifyOperator(c: Context<EdgeEnv>): Promise<void> {
  const expected = readOperatorToken(c.env)
  if (expected === null)
    throw createInvalidTokenError(
      `The operator routes are disabled: OCTET_ADMIN_TOKEN must have at least ${MIN_TOKEN_CHARACTERS} random characters.`,
    )
  const client = await hashAddress(c)
  if ((locked.get(client) ?? 0) > Date.now()) throw createLockedOutError()
  const token = readBearerToken(c)
  if (token !== null && (await timingSafeEqual(token, expected))) return
  if (token !== null) await countFailure(c, client)
  throw createInvalidTokenError(
    'This request requires the operator token: "Authorization: Bearer <OCTET_ADMIN_TOKEN>".',
  )
}

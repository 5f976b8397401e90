// The operator's token, the secret OCTET_ADMIN_TOKEN: whoever holds it reaches every account, so guesses are few and logged.
import type { Context } from 'hono'
import { timingSafeEqual } from 'hono/utils/buffer'
import { bearer, CHALLENGE } from './auth.ts'
import type { EdgeEnv, Env } from './env.ts'
import { ApiError } from './errors.ts'
import { EXAMPLE_SECRET, mac, parsePeppers } from './keys.ts'
import { log } from './log.ts'

const LEAST_CHARACTERS = 32
/** The period of OPERATOR_LIMIT in wrangler.toml, and how long an address that passed it is locked out. */
const LOCKOUT_SECONDS = 60
const MOST_LOCKED = 10_000

/** Addresses that this isolate locked out, and until when (Unix milliseconds). OPERATOR_LIMIT counts for all isolates of a location. */
const locked = new Map<string, number>()
let complained = false

/** The operator's token; null when it is missing, short, or the example's, which is logged once. */
function operatorToken({ OCTET_ADMIN_TOKEN: token }: Env): string | null {
  if (token && token.length >= LEAST_CHARACTERS && !token.startsWith(EXAMPLE_SECRET)) return token
  if (!complained) log('error', `OCTET_ADMIN_TOKEN must have at least ${LEAST_CHARACTERS} random characters`)
  complained = true
  return null
}

const refused = (message: string) => new ApiError('invalid_admin_token', message, { headers: CHALLENGE })

const lockedOut = () =>
  new ApiError('rate_limited', `There were too many wrong operator tokens; try again in ${LOCKOUT_SECONDS} s.`, {
    headers: { 'retry-after': String(LOCKOUT_SECONDS) },
  })

/** The caller's address as a keyed hash: the log must not hold addresses. */
async function addressHash(c: Context<EdgeEnv>): Promise<string> {
  const [pepper] = parsePeppers(c.env.KEY_PEPPER)
  return (await mac(pepper, 'address', c.req.header('cf-connecting-ip') ?? '')).slice(0, 16)
}

/** Logs a wrong token and counts it for its address. Errors: rate_limited once there were too many. */
async function countFailure(c: Context<EdgeEnv>, client: string): Promise<void> {
  log('warn', 'a wrong operator token', { client, path: c.req.path.slice(0, 100), request_id: c.get('requestId') })
  const { success } = await c.env.OPERATOR_LIMIT.limit({ key: client })
  if (success) return
  if (locked.size >= MOST_LOCKED) locked.clear()
  locked.set(client, Date.now() + LOCKOUT_SECONDS * 1000)
  throw lockedOut()
}

/** Lets the operator pass. A locked-out address is refused with the right token too. Errors: invalid_admin_token, rate_limited. */
export async function verifyOperator(c: Context<EdgeEnv>): Promise<void> {
  const expected = operatorToken(c.env)
  if (expected === null)
    throw refused(
      `The operator's routes are closed: OCTET_ADMIN_TOKEN must have at least ${LEAST_CHARACTERS} random characters.`,
    )
  const client = await addressHash(c)
  if ((locked.get(client) ?? 0) > Date.now()) throw lockedOut()
  const token = bearer(c)
  if (token !== null && (await timingSafeEqual(token, expected))) return
  if (token !== null) await countFailure(c, client)
  throw refused('This needs the operator token: "Authorization: Bearer <OCTET_ADMIN_TOKEN>".')
}

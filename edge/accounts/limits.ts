// Limits of an account, key or browser token: requests per minute, concurrent jobs, and daily, monthly and total spending.
import * as z from 'zod'
import { MICRODOLLARS } from '../routing/price.ts'

const most = (value: number, unit: string) =>
  z.int().min(0).max(value).nullable().describe(`null for no limit, or a whole number of ${unit} up to ${value}`)
const money = most(1_000_000 * MICRODOLLARS, 'micro-dollars')

/** The field names are those of the API. */
const fields = {
  requests_per_minute: most(1_000_000, 'requests'),
  concurrent_jobs: most(100_000, 'jobs'),
  daily_microdollars: money,
  monthly_microdollars: money,
  total_microdollars: money,
}
const description = `an object of ${Object.keys(fields).join(', ')}, each null or a whole number from 0`

/** A partial update of limits. Null removes a limit. */
export const limitsChange = z.strictObject(fields).partial().describe(description)
/** Null or an omitted field means no limit. */
export const limits = z
  .strictObject({
    requests_per_minute: fields.requests_per_minute.default(null),
    concurrent_jobs: fields.concurrent_jobs.default(null),
    daily_microdollars: money.default(null),
    monthly_microdollars: money.default(null),
    total_microdollars: money.default(null),
  })
  .describe(description)
export type Limits = z.infer<typeof limits>

export const UNLIMITED: Limits = limits.parse({})

/** The holder of a limit. `creator` is an ancestor of the caller's key. */
export type Holder = 'account' | 'creator' | 'key' | 'token'
/** The state of one token bucket after a request. */
export type RateState = { holder: Holder; limit: number; remaining: number; resetSeconds: number }

/** Parses OCTET_ACCOUNT_LIMITS, the default limits of an account. Throws if it is malformed. */
export function readAccountLimits(given: unknown): Limits {
  const parsed = limits.safeParse((typeof given === 'string' ? JSON.parse(given) : given) ?? {})
  if (!parsed.success) throw new Error(`OCTET_ACCOUNT_LIMITS is malformed:\n${z.prettifyError(parsed.error)}`)
  return parsed.data
}

/**
 * Returns `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers) for every bucket, and OpenAI's
 * `x-ratelimit-*-requests` for the bucket with the fewest remaining requests. Returns no headers if no rate is limited.
 */
export function rateHeaders(all: readonly RateState[]): Record<string, string> {
  const byRemaining = all.toSorted((a, b) => a.remaining - b.remaining)
  const [tightest] = byRemaining
  if (!tightest) return {}
  // A key may have several ancestors; only the one with the fewest remaining requests is listed.
  const states = all.filter((state) => byRemaining.find(({ holder }) => holder === state.holder) === state)
  return {
    'ratelimit-policy': states.map(({ holder, limit }) => `"${holder}";q=${limit};w=60`).join(', '),
    ratelimit: states
      .map(({ holder, remaining, resetSeconds }) => `"${holder}";r=${remaining};t=${resetSeconds}`)
      .join(', '),
    'x-ratelimit-limit-requests': String(tightest.limit),
    'x-ratelimit-remaining-requests': String(tightest.remaining),
    'x-ratelimit-reset-requests': `${tightest.resetSeconds}s`,
  }
}

/** Response headers exposed to browser scripts through CORS. */
export const EXPOSED_HEADERS = [
  ...['ratelimit', 'ratelimit-policy', 'retry-after', 'retry-after-ms', 'server-timing', 'www-authenticate'],
  ...['limit', 'remaining', 'reset'].map((name) => `x-ratelimit-${name}-requests`),
  ...['x-octet-job', 'x-request-id', 'x-should-retry'],
]

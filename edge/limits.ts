// What an account, a key or a browser token may use: requests a minute, jobs at a time, money a day, a month and in all.
import * as z from 'zod'
import { MICRODOLLARS } from './price.ts'

const most = (value: number, unit: string) =>
  z.int().min(0).max(value).nullable().describe(`null for no limit, or a whole number of ${unit} up to ${value}`)
const money = most(1_000_000 * MICRODOLLARS, 'micro-dollars')

/** The fields' names are the API's. */
const fields = {
  requests_per_minute: most(1_000_000, 'requests'),
  concurrent_jobs: most(100_000, 'jobs'),
  daily_microdollars: money,
  monthly_microdollars: money,
  total_microdollars: money,
}
const what = `an object of ${Object.keys(fields).join(', ')}, each null or a whole number from 0`

/** What is changed of limits; the others stay. A null takes a limit away. */
export const limitsChange = z.strictObject(fields).partial().describe(what)
/** A null, or a limit left out, is none. */
export const limits = z
  .strictObject({
    requests_per_minute: fields.requests_per_minute.default(null),
    concurrent_jobs: fields.concurrent_jobs.default(null),
    daily_microdollars: money.default(null),
    monthly_microdollars: money.default(null),
    total_microdollars: money.default(null),
  })
  .describe(what)
export type Limits = z.infer<typeof limits>

export const UNLIMITED: Limits = limits.parse({})

/** Where a limit was set; `creator` is a key that the caller's key descends from. */
export type Holder = 'account' | 'creator' | 'key' | 'token'
/** The state of one token bucket after a request. */
export type RateState = { holder: Holder; limit: number; remaining: number; resetSeconds: number }

/** Reads OCTET_ACCOUNT_LIMITS, what an account has until the operator sets its own. Throws when it is malformed. */
export function readAccountLimits(given: unknown): Limits {
  const parsed = limits.safeParse((typeof given === 'string' ? JSON.parse(given) : given) ?? {})
  if (!parsed.success) throw new Error(`OCTET_ACCOUNT_LIMITS is malformed:\n${z.prettifyError(parsed.error)}`)
  return parsed.data
}

/**
 * `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers for every bucket, and `x-ratelimit-*-requests` as
 * OpenAI's clients read them for the tightest. Nothing when nothing is limited.
 */
export function rateHeaders(all: readonly RateState[]): Record<string, string> {
  const byTightness = all.toSorted((a, b) => a.remaining - b.remaining)
  const [tightest] = byTightness
  if (!tightest) return {}
  // A key may descend from several; one item stands for them.
  const states = all.filter((state) => byTightness.find(({ holder }) => holder === state.holder) === state)
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

/** What a browser's script may read of a reply beside its body. */
export const EXPOSED_HEADERS = [
  ...['ratelimit', 'ratelimit-policy', 'retry-after', 'retry-after-ms', 'server-timing', 'www-authenticate'],
  ...['limit', 'remaining', 'reset'].map((name) => `x-ratelimit-${name}-requests`),
  ...['x-octet-job', 'x-request-id', 'x-should-retry'],
]

// The rates of the holders of limits, and the response headers that report them.

/** The holder of a limit. `creator` is an ancestor of the caller's key. */
export type Holder = 'account' | 'creator' | 'key' | 'token'
/** The state of one token bucket after a request. */
export type RateState = { holder: Holder; limit: number; remaining: number; resetSeconds: number }

/**
 * Returns `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers) for every bucket, and OpenAI's
 * `x-ratelimit-*-requests` for the bucket with the fewest remaining requests. Returns no headers if no rate is limited.
 */
export function createRateHeaders(all: readonly RateState[]): Record<string, string> {
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

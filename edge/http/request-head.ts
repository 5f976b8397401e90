// Size limits for the URL and headers of a request, enforced before they are parsed.
import { createMiddleware } from 'hono/factory'
import type { EdgeEnv } from './context.ts'
import { ApiError } from './errors.ts'

const MAX_URL = 8192
const MAX_HEADER = 2048

/** The headers read by this worker and its middleware. Others, such as cookies, are never parsed. */
const READ = [
  ...['authorization', 'content-type', 'content-length', 'idempotency-key', 'last-event-id', 'prefer'],
  ...['range', 'if-range', 'if-none-match', 'origin', 'x-request-id', 'x-stainless-retry-count'],
  ...['access-control-request-headers', 'access-control-request-method', 'cf-connecting-ip'],
  ...['accept', 'api-key', 'content-encoding', 'x-api-key', 'x-key'],
]

/** Rejects a request with an oversized URL or header. Errors: uri_too_long, header_too_large. */
export const limitRequestHead = createMiddleware<EdgeEnv>(async (c, next) => {
  if (c.req.url.length > MAX_URL)
    throw new ApiError(
      'uri_too_long',
      `The URL has ${c.req.url.length} characters; the limit is ${MAX_URL}. Send long values in the body.`,
    )
  const long = READ.find((name) => (c.req.header(name)?.length ?? 0) > MAX_HEADER)
  if (long) {
    const message = `The header ${long} has ${c.req.header(long)?.length} characters; the limit is ${MAX_HEADER}.`
    throw new ApiError('header_too_large', message)
  }
  await next()
})

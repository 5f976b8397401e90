// Bounds on the address and the headers of a request, checked before anything parses them.
import { createMiddleware } from 'hono/factory'
import type { EdgeEnv } from './env.ts'
import { ApiError } from './errors.ts'

const MOST_ADDRESS = 8192
const MOST_HEADER = 2048

/** The headers that this worker and its middleware read. Others (cookies, what proxies add) are never parsed. */
const READ = [
  ...['authorization', 'content-type', 'content-length', 'idempotency-key', 'last-event-id', 'prefer'],
  ...['range', 'if-range', 'if-none-match', 'origin', 'x-request-id', 'x-stainless-retry-count'],
  ...['access-control-request-headers', 'access-control-request-method', 'cf-connecting-ip'],
]

/** Refuses a request whose address or headers are too long. Errors: uri_too_long, header_too_large. */
export const boundedHead = createMiddleware<EdgeEnv>(async (c, next) => {
  if (c.req.url.length > MOST_ADDRESS)
    throw new ApiError(
      'uri_too_long',
      `The address has ${c.req.url.length} characters; it may have ${MOST_ADDRESS}. Send long values in the body.`,
    )
  const long = READ.find((name) => (c.req.header(name)?.length ?? 0) > MOST_HEADER)
  if (long) {
    const message = `The header ${long} has ${c.req.header(long)?.length} characters; it may have ${MOST_HEADER}.`
    throw new ApiError('header_too_large', message)
  }
  await next()
})

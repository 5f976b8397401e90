// Headers of every response, including errors and redirects.
import { createMiddleware } from 'hono/factory'
import { secureHeaders } from 'hono/secure-headers'
import type { EdgeEnv } from './context.ts'

/** Security headers: HTTPS only, no MIME sniffing, no framing. Images may be embedded by other sites. */
export const securityHeaders = secureHeaders({
  strictTransportSecurity: 'max-age=31536000',
  xFrameOptions: 'DENY',
  crossOriginResourcePolicy: 'cross-origin',
  crossOriginOpenerPolicy: false,
  originAgentCluster: false,
  xDnsPrefetchControl: false,
  xDownloadOptions: false,
  xPermittedCrossDomainPolicies: false,
  xXssProtection: false,
})

/** Disables caching unless the handler sets Cache-Control. */
export const noStore = createMiddleware<EdgeEnv>(async (c, next) => {
  await next()
  if (!c.res.headers.has('cache-control')) c.res.headers.set('cache-control', 'no-store')
})

/** How long a browser may cache the response to a preflight request. Chromium caches at most two hours. */
export const PREFLIGHT_SECONDS = 7200

/** Response headers exposed to browser scripts through CORS. */
export const EXPOSED_HEADERS = [
  ...['ratelimit', 'ratelimit-policy', 'retry-after', 'retry-after-ms', 'server-timing', 'www-authenticate'],
  ...['limit', 'remaining', 'reset'].map((name) => `x-ratelimit-${name}-requests`),
  ...['x-octet-job', 'x-request-id', 'x-should-retry', 'location', 'preference-applied'],
  ...['accept-ranges', 'content-disposition', 'content-length', 'content-range', 'etag'],
]

// Headers of every reply, errors and redirects included.
import { createMiddleware } from 'hono/factory'
import { secureHeaders } from 'hono/secure-headers'
import type { EdgeEnv } from './env.ts'

/** For browsers: HTTPS alone, no guessing of types, no framing. Images stay embeddable by the pages of others. */
export const replyHeaders = secureHeaders({
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

/** No cache keeps a reply unless its handler says for how long. */
export const unstored = createMiddleware<EdgeEnv>(async (c, next) => {
  await next()
  if (!c.res.headers.has('cache-control')) c.res.headers.set('cache-control', 'no-store')
})

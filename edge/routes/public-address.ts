import { createMiddleware } from 'hono/factory'
import { configOf } from '../config.ts'
import type { EdgeEnv } from '../http/context.ts'

/**
 * Gives requests the deployment's public address, with which links in replies and webhooks begin. A proxy that terminates TLS forwards
 * requests to another address. Headers such as X-Forwarded-Host are not read, because any caller can send them.
 */
export const publicAddress = createMiddleware<EdgeEnv>(async (c, next) => {
  const origin = configOf(c.env).publicOrigin
  if (origin !== null) {
    const { pathname, search } = new URL(c.req.url)
    c.req.raw = new Request(`${origin}${pathname}${search}`, c.req.raw)
  }
  await next()
})

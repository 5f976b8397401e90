import { Hono } from 'hono'
import { cors } from 'hono/cors'
import { methodNotAllowed } from 'hono/method-not-allowed'
import { requestId } from 'hono/request-id'
import { checkAccess } from './auth/access.ts'
import type { Dialect } from './dialects/definition/dialect.ts'
import { DIALECTS } from './dialects/dialects.ts'
import type { EdgeEnv } from './http/context.ts'
import { onError, onMethodNotAllowed, onNotFound } from './http/errors.ts'
import { limitRequestHead } from './http/request-head.ts'
import { EXPOSED_HEADERS, noStore, PREFLIGHT_SECONDS, securityHeaders } from './http/response-headers.ts'
import { accessRules } from './routes/access.ts'
import { accountData, ownAccount } from './routes/account/account-data.ts'
import { accounts } from './routes/account/accounts.ts'
import { keys } from './routes/account/keys.ts'
import { tokens } from './routes/account/tokens.ts'
import { usage } from './routes/account/usage.ts'
import { createDialectRoutes, createDialectSettings } from './routes/dialects/dialect-routes.ts'
import { health } from './routes/health.ts'
import { jobs } from './routes/jobs.ts'
import { mcp } from './routes/mcp/mcp.ts'
import { models } from './routes/models.ts'
import { operator } from './routes/operator.ts'
import { playground } from './routes/playground.ts'
import { prewarmRoute } from './routes/prewarm.ts'
import { publicAddress } from './routes/public-address.ts'
import { quote } from './routes/quote.ts'
import { receiptKeys, receipts } from './routes/receipts.ts'
import { jobImages, results } from './routes/results.ts'
import { verify } from './routes/verify.ts'
import { webhookDeliveries } from './routes/webhooks/deliveries.ts'
import { webhooks } from './routes/webhooks/webhooks.ts'

/** The worker's routes, with those of these dialects. */
export function createApp(dialects: readonly Dialect[]): Hono<EdgeEnv> {
  // Not strict: a trailing slash is ignored, which some clients add to their base URL.
  const app = new Hono<EdgeEnv>({ strict: false })
  app.use(publicAddress)
  app.use(securityHeaders)
  app.use(noStore)
  app.use(requestId())
  app.route('/', createDialectSettings(dialects))
  app.use(limitRequestHead)
  // Browsers authenticate with a token of POST /v1/tokens; no route reads cookies.
  app.use(
    '/mcp',
    cors({ origin: '*', exposeHeaders: [...EXPOSED_HEADERS, 'mcp-session-id'], maxAge: PREFLIGHT_SECONDS }),
  )
  app.use('/v1/*', cors({ origin: '*', exposeHeaders: EXPOSED_HEADERS, maxAge: PREFLIGHT_SECONDS }))
  app.use(methodNotAllowed({ app, onMethodNotAllowed }))
  app.use(checkAccess(accessRules(dialects)))

  app.route('/', createDialectRoutes(dialects))
  app.route('/healthz', health)
  app.route('/.well-known', receiptKeys)
  app.route('/mcp', mcp)
  app.route('/v1/account', ownAccount)
  app.route('/v1/accounts', accounts)
  app.route('/v1/accounts', accountData)
  app.route('/v1/jobs', jobs)
  app.route('/v1/jobs', receipts)
  app.route('/v1/jobs', jobImages)
  app.route('/v1/keys', keys)
  app.route('/v1/models', models)
  app.route('/v1/playground', playground)
  app.route('/v1/prewarm', prewarmRoute)
  app.route('/v1/quote', quote)
  app.route('/v1/operator', operator)
  app.route('/v1/results', results)
  app.route('/v1/tokens', tokens)
  app.route('/v1/usage', usage)
  app.route('/v1/verify', verify)
  app.route('/v1/webhooks', webhooks)
  app.route('/v1/webhooks', webhookDeliveries)

  app.onError(onError)
  app.notFound(onNotFound)
  return app
}

export const app = createApp(DIALECTS)

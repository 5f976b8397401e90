import { Hono } from 'hono'
import { gpuState, prewarm } from '../gpu/health.ts'
import type { EdgeEnv } from '../http/context.ts'
import { parseFields, readJson } from '../http/validation.ts'
import { generation, routeAndPrice } from '../requests/generation-request.ts'
import { forecastFor, observations } from '../routing/forecast.ts'
import { megapixelSteps } from '../routing/price.ts'

/**
 * Quotes a request without running it: price, route and reason, probability of a cold start, and expected duration. The price is exactly
 * the amount that the same request reserves; probabilities and times are based on past jobs, and null without any.
 */
export const quote = new Hono<EdgeEnv>().post('/', async (c) => {
  const fields = parseFields(generation, generation.shape, await readJson(c))
  const { decision, price } = await routeAndPrice(fields, c.env)
  const { route, tier, model, steps, guidanceScale, width, height, reason } = decision
  const seen = await observations(c.env.DB, [decision])
  c.executionCtx.waitUntil(prewarm(c.env, decision.endpoint, 'quote'))
  const forecast = forecastFor(seen, decision, megapixelSteps({ ...decision, count: fields.n }))
  const body = {
    object: 'quote',
    price_microdollars: price,
    ...{ route, tier, model, steps, guidance_scale: guidanceScale, size: `${width}x${height}`, reason },
    gpu: await gpuState(c.env, decision.endpoint),
    cold_start: forecast.cold,
    expected_seconds: forecast.seconds,
    observations: forecast.observations,
  }
  return c.json(body)
})

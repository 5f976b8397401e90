// Quotes a request without running it.
import type { Context } from 'hono'
import { prewarm, readGpuState } from '../gpu/health.ts'
import type { EdgeEnv } from '../http/context.ts'
import { forecastOffer, selectObservations } from '../routing/forecast.ts'
import { countMegapixelSteps } from '../routing/price.ts'
import { parseGeneration, routeAndPrice } from './generation-request.ts'

/**
 * The price, route and reason of a request, the probability of a cold start, and the expected duration. The price equals the
 * amount reserved for the same request. Probabilities and times are estimated from past jobs, and are null if there are none.
 */
export async function quoteRequest(c: Context<EdgeEnv>, body: unknown) {
  const fields = parseGeneration(body)
  const { decision, work, price } = await routeAndPrice(fields, c.env, c.get('credential').account)
  const { route, tier, model, steps, guidanceScale, width, height, reason } = decision
  const seen = await selectObservations(c.env.DB, [decision])
  c.executionCtx.waitUntil(prewarm(c.env, decision.endpoint, 'quote'))
  const forecast = forecastOffer(seen, decision, countMegapixelSteps(work))
  return {
    object: 'quote',
    price_microdollars: price,
    ...{ route, tier, model, steps, guidance_scale: guidanceScale, size: `${width}x${height}`, reason },
    gpu: await readGpuState(c.env, decision.endpoint),
    cold_start: forecast.cold,
    expected_seconds: forecast.seconds,
    observations: forecast.observations,
  }
}

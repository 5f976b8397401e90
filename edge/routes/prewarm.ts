import { Hono } from 'hono'
import { configOf } from '../config.ts'
import { gpuState, prewarm } from '../gpu/health.ts'
import type { EdgeEnv } from '../http/context.ts'

/**
 * Prewarms the preferred endpoints of all offers, within the operator's budget, for example when a page with a prompt field opens. The
 * response lists the GPU state of each offer.
 */
export const prewarmRoute = new Hono<EdgeEnv>().post('/', async (c) => {
  const { offers } = configOf(c.env).catalog
  const names = [...new Set(offers.map(({ endpoint }) => endpoint))]
  await Promise.all(names.map((name) => prewarm(c.env, name, 'visit')))
  const states = new Map(await Promise.all(names.map(async (name) => [name, await gpuState(c.env, name)] as const)))
  const data = offers.map(({ route, model, tier, endpoint }) => ({ route, model, tier, ...states.get(endpoint) }))
  return c.json({ object: 'list', data }, 202)
})

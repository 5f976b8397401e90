import { Hono } from 'hono'
import { readCatalogue } from '../catalogue.ts'
import type { EdgeEnv } from '../env.ts'
import { gpuState, prewarm } from '../warm.ts'

/**
 * Says that pictures are about to be asked for, as a page with a prompt field does when it opens: the preferred endpoints of all offers are
 * started, as far as the operator's budget goes. The reply says how each offer's GPU stands.
 */
export const warmth = new Hono<EdgeEnv>().post('/', async (c) => {
  const { offers } = readCatalogue(c.env)
  const names = [...new Set(offers.map(({ endpoint }) => endpoint))]
  await Promise.all(names.map((name) => prewarm(c.env, name, 'visit')))
  const states = new Map(await Promise.all(names.map(async (name) => [name, await gpuState(c.env, name)] as const)))
  const data = offers.map(({ route, model, tier, endpoint }) => ({ route, model, tier, ...states.get(endpoint) }))
  return c.json({ object: 'list', data }, 202)
})

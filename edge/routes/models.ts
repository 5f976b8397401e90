import { Hono } from 'hono'
import { configOf } from '../config.ts'
import type { EdgeEnv } from '../http/context.ts'

/** The available models in OpenAI's list format. `octet` lists the routes, tiers and defaults of each model. */
export const models = new Hono<EdgeEnv>().get('/', (c) => {
  const offers = Object.entries(Object.groupBy(configOf(c.env).catalog.offers, ({ model }) => model))
  const data = offers.map(([id, served = []]) => ({
    id,
    object: 'model',
    created: 0,
    owned_by: 'octet',
    octet: served.map(({ endpoint: _, fallbacks: __, model: ___, ...offer }) => offer),
  }))
  return c.json({ object: 'list', data })
})

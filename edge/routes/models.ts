import { Hono } from 'hono'
import { readCatalogue } from '../catalogue.ts'
import type { EdgeEnv } from '../env.ts'

/** The models on offer, as OpenAI lists them; `octet` says by which route, tier and defaults each is served. */
export const models = new Hono<EdgeEnv>().get('/', (c) => {
  const offers = Object.entries(Object.groupBy(readCatalogue(c.env).offers, ({ model }) => model))
  const data = offers.map(([id, served = []]) => ({
    id,
    object: 'model',
    created: 0,
    owned_by: 'octet',
    octet: served.map(({ endpoint: _, spares: __, model: ___, ...offer }) => offer),
  }))
  return c.json({ object: 'list', data })
})

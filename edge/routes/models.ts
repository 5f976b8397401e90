import { Hono } from 'hono'
import type { Offer } from '../config/catalog.ts'
import { configOf } from '../config.ts'
import type { EdgeEnv } from '../http/context.ts'
import { checkModel } from '../routing/alias.ts'

/** A model in OpenAI's format. `octet` lists its routes, tiers and defaults. */
const describeModel = (id: string, offers: readonly Offer[]) => ({
  id,
  object: 'model',
  created: 0,
  owned_by: 'octet',
  octet: offers.map(({ endpoint: _, fallbacks: __, model: ___, ...offer }) => offer),
})

/** The available models, and one model by its name or an alias. An alias for `auto` lists the offers of all models. */
export const models = new Hono<EdgeEnv>()
  .get('/', (c) => {
    const offers = Object.entries(Object.groupBy(configOf(c.env).catalog.offers, ({ model }) => model))
    return c.json({ object: 'list', data: offers.map(([id, served = []]) => describeModel(id, served)) })
  })
  .get('/:id', (c) => {
    const id = c.req.param('id')
    const { catalog } = configOf(c.env)
    const model = checkModel(catalog, id)
    const offers = catalog.offers.filter((offer) => model === undefined || offer.model === model)
    return c.json(describeModel(id, offers))
  })

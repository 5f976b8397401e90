import { Hono } from 'hono'
import { type Catalog, lorasOf, type Offer } from '../config/catalog.ts'
import { configOf } from '../config.ts'
import type { EdgeEnv } from '../http/context.ts'
import { checkModel } from '../routing/alias.ts'

/** The adapters of these models that an account may use. */
const describeLoras = (catalog: Catalog, account: string, models: readonly string[]) =>
  lorasOf(catalog, account)
    .filter((lora) => lora.models.some((model) => models.includes(model)))
    .map(({ id, models, scale, trigger_words }) => ({ id, models, scale, trigger_words }))

/** A model in OpenAI's format. `octet` lists its routes, tiers and defaults, and `octet_loras` its adapters. */
const describeModel = (id: string, offers: readonly Offer[], catalog: Catalog, account: string) => ({
  id,
  object: 'model',
  created: 0,
  owned_by: 'octet',
  octet: offers.map(({ endpoint: _, fallbacks: __, model: ___, ...offer }) => offer),
  octet_loras: describeLoras(
    catalog,
    account,
    offers.map(({ model }) => model),
  ),
})

/** The available models, and one model by its name or an alias. An alias for `auto` lists the offers of all models. */
export const models = new Hono<EdgeEnv>()
  .get('/', (c) => {
    const { catalog } = configOf(c.env)
    const { account } = c.get('credential')
    const offers = Object.entries(Object.groupBy(catalog.offers, ({ model }) => model))
    const data = offers.map(([id, served = []]) => describeModel(id, served, catalog, account))
    return c.json({ object: 'list', data })
  })
  .get('/:id', (c) => {
    const id = c.req.param('id')
    const { catalog } = configOf(c.env)
    const model = checkModel(catalog, id)
    const offers = catalog.offers.filter((offer) => model === undefined || offer.model === model)
    return c.json(describeModel(id, offers, catalog, c.get('credential').account))
  })

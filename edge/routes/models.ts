import { Hono } from 'hono'
import {
  type CompatibilityCheck,
  controlnetsOf,
  isControlnetUsable,
  isLoraUsable,
  lorasOf,
  modelOf,
} from '../config/additions.ts'
import type { Catalog, Offer } from '../config/catalog.ts'
import { configOf } from '../config.ts'
import type { EdgeEnv } from '../http/context.ts'
import { checkModel } from '../routing/alias.ts'

type Addition = { models: readonly string[]; accounts?: unknown }

/** The additions compatible with one of the offers, with their models and their compatible tiers. */
const describeAdditions = <Each extends Addition>(
  additions: readonly Each[],
  fits: CompatibilityCheck,
  offers: readonly Offer[],
) =>
  additions.flatMap(({ accounts: _, models, ...addition }) => {
    const tiers = offers.filter((offer) => fits(models, offer)).map(({ tier }) => tier)
    return tiers.length === 0
      ? []
      : [{ ...addition, models: [...new Set(models.map(modelOf))], tiers: [...new Set(tiers)] }]
  })

/**
 * A model in OpenAI's format. `octet` lists its routes, tiers and defaults; `octet_loras` and `octet_controlnets` list the additions
 * available to the account.
 */
const describeModel = (id: string, offers: readonly Offer[], catalog: Catalog, account: string) => ({
  id,
  object: 'model',
  created: 0,
  owned_by: 'octet',
  octet: offers.map(({ endpoint: _, fallbacks: __, model: ___, ...offer }) => offer),
  octet_loras: describeAdditions(lorasOf(catalog, account), isLoraUsable, offers),
  octet_controlnets: describeAdditions(controlnetsOf(catalog, account), isControlnetUsable, offers),
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

import { Hono } from 'hono'
import { type Catalog, controlnetsOf, lorasOf, type Offer } from '../config/catalog.ts'
import { configOf } from '../config.ts'
import type { EdgeEnv } from '../http/context.ts'
import { checkModel } from '../routing/alias.ts'

const withoutAccounts = <Offer extends { accounts?: unknown }>({ accounts: _, ...offer }: Offer) => offer

/** The adapters and ControlNets of these models that an account may use. */
function describeAdditions(catalog: Catalog, account: string, offers: readonly Offer[]) {
  const fits = ({ models }: { models: readonly string[] }) => offers.some(({ model }) => models.includes(model))
  return {
    octet_loras: lorasOf(catalog, account).filter(fits).map(withoutAccounts),
    octet_controlnets: controlnetsOf(catalog, account).filter(fits).map(withoutAccounts),
  }
}

/** A model in OpenAI's format. `octet` lists its routes, tiers and defaults; `octet_loras` and `octet_controlnets`, its additions. */
const describeModel = (id: string, offers: readonly Offer[], catalog: Catalog, account: string) => ({
  id,
  object: 'model',
  created: 0,
  owned_by: 'octet',
  octet: offers.map(({ endpoint: _, fallbacks: __, model: ___, ...offer }) => offer),
  ...describeAdditions(catalog, account, offers),
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

// The choice of a request's additions to its model: adapters (LoRAs) and ControlNets.
import type { Catalog } from '../config/catalog.ts'
import { ApiError } from '../http/errors.ts'
import { shown } from '../http/validation.ts'
import { resolveModel } from '../routing/alias.ts'

type Addition = { readonly id: string; readonly models: readonly string[] }
/** `field`: the field of the request. `noun`: one of its entries, in messages. */
type Kind = { readonly field: 'loras' | 'controls'; readonly noun: string }

const list = (names: readonly string[]) => names.join(', ')

/**
 * The offers with these IDs, and the catalog without the models that they do not fit. Errors: invalid_request for offers that the account
 * does not have, for offers without a common model, and for a named model that they do not fit.
 */
export function chooseAdditions<Offer extends Addition>(
  { field, noun }: Kind,
  ids: readonly string[],
  available: readonly Offer[],
  requestedModel: string,
  catalog: Catalog,
): { offers: Offer[]; catalog: Catalog } {
  const refuse = (problem: string) => new ApiError('invalid_request', `${field} ${problem}.`, { param: field })
  const twice = ids.find((id, i) => ids.indexOf(id) !== i)
  if (twice !== undefined) throw refuse(`has ${shown(twice)} twice; name each ${noun} once`)
  const offers = ids.map((id) => {
    const found = available.find((offer) => offer.id === id)
    if (found) return found
    const known = available.map((offer) => offer.id)
    const names = known.length === 0 ? 'this deployment offers none' : `it must be one of ${list(known)}`
    throw refuse(`has the id ${shown(id)}; ${names}`)
  })
  const models = offers.map((offer) => offer.models).reduce((a, b) => a.filter((model) => b.includes(model)))
  if (models.length === 0)
    throw refuse(
      `have no model in common: ${offers.map(({ id, models }) => `${id} is for ${list(models)}`).join('; ')}`,
    )
  const model = requestedModel === 'auto' ? undefined : resolveModel(catalog, requestedModel)
  if (model !== undefined && !models.includes(model)) throw refuse(`are for ${list(models)}, not for ${shown(model)}`)
  const remaining = catalog.offers.filter((offer) => models.includes(offer.model))
  if (remaining.length === 0)
    throw refuse(`are for ${list(models)}, which do not fit the other additions of the request`)
  return { offers, catalog: { ...catalog, offers: remaining } }
}

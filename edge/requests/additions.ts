// The choice of a request's additions to its model: adapters (LoRAs) and ControlNets.
import type { Tier } from '#contract'
import { type CompatibilityCheck, modelOf } from '../config/additions.ts'
import type { Catalog, Offer } from '../config/catalog.ts'
import { ApiError } from '../http/errors.ts'
import { formatValue } from '../http/validation.ts'
import { resolveModel } from '../routing/alias.ts'

type Addition = { readonly id: string; readonly models: readonly string[] }
/** `field`: the field of the request. `noun`: one of its entries, in messages. */
type Kind = { readonly field: 'loras' | 'controls'; readonly noun: string; readonly fits: CompatibilityCheck }
/** The requested package. */
export type RequestedModel = { readonly model: string; readonly tier: Tier | 'auto' }

const list = (names: readonly string[]) => [...new Set(names)].join(', ')
const packagesOf = (offers: readonly Offer[]) => list(offers.map(({ model, tier }) => `${model} in tier ${tier}`))
const intersect = <T>(lists: readonly T[][]): T[] => lists.reduce((a, b) => a.filter((each) => b.includes(each)))

const refuse = (field: string, problem: string) =>
  new ApiError('invalid_request', `${field} ${problem}.`, { param: field })

function find<Each extends Addition>(
  { field, noun }: Kind,
  ids: readonly string[],
  available: readonly Each[],
): Each[] {
  const twice = ids.find((id, i) => ids.indexOf(id) !== i)
  if (twice !== undefined) throw refuse(field, `has ${formatValue(twice)} twice; name each ${noun} once`)
  return ids.map((id) => {
    const found = available.find((each) => each.id === id)
    if (found) return found
    const known = available.map((each) => each.id)
    const names = known.length === 0 ? 'this deployment offers none' : `it must be one of ${list(known)}`
    throw refuse(field, `has the id ${formatValue(id)}; ${names}`)
  })
}

/**
 * Returns the additions with these IDs, and the catalog restricted to compatible offers. Throws invalid_request for unavailable additions,
 * for additions without a common model or tier, and for an incompatible requested model or tier.
 */
export function chooseAdditions<Each extends Addition>(
  kind: Kind,
  ids: readonly string[],
  available: readonly Each[],
  requested: RequestedModel,
  catalog: Catalog,
): { chosen: Each[]; catalog: Catalog } {
  const { field, fits } = kind
  const chosen = find(kind, ids, available)
  const describe = (text: (each: Each) => string) => chosen.map((each) => `${each.id} is for ${text(each)}`).join('; ')
  const modelsOf = ({ models }: Each) => models.map(modelOf)
  const models = intersect(chosen.map(modelsOf))
  if (models.length === 0) throw refuse(field, `have no model in common: ${describe((each) => list(modelsOf(each)))}`)
  const model = requested.model === 'auto' ? undefined : resolveModel(catalog, requested.model)
  if (model !== undefined && !models.includes(model))
    throw refuse(field, `are for ${list(models)}, not for ${formatValue(model)}`)
  const offers = catalog.offers.filter((offer) => models.includes(offer.model))
  if (offers.length === 0)
    throw refuse(field, `are for ${list(models)}; the other additions of the request are for other models`)
  const filterFitting = (each: Each) => offers.filter((offer) => fits(each.models, offer))
  const remaining = intersect(chosen.map(filterFitting))
  if (remaining.length === 0)
    throw refuse(field, `have no tier in common: ${describe((each) => packagesOf(filterFitting(each)))}`)
  const isRequested = (offer: Offer) =>
    (model === undefined || offer.model === model) && (requested.tier === 'auto' || offer.tier === requested.tier)
  if (offers.some(isRequested) && !remaining.some(isRequested)) {
    const given = requested.tier === 'auto' ? formatValue(model) : `tier ${formatValue(requested.tier)}`
    throw refuse(field, `are for ${packagesOf(remaining)}, not for ${given}`)
  }
  return { chosen, catalog: { ...catalog, offers: remaining } }
}

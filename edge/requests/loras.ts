// The adapters (LoRAs) of a request.

import * as z from 'zod'
import { LIMITS, type LoraChoice } from '#contract'
import { type Catalog, type LoraOffer, lorasOf } from '../config/catalog.ts'
import { ApiError } from '../http/errors.ts'
import { shown } from '../http/validation.ts'
import { resolveModel } from '../routing/alias.ts'

const { max, scale } = LIMITS.loras
const SHAPE = `a list of 1 to ${max} objects with an id and, optionally, a scale from ${-scale} to ${scale}`

/** The field `loras`. The default scale is that of the catalog. */
export const loras = z
  .array(z.strictObject({ id: z.string().min(1).max(200), scale: z.number().min(-scale).max(scale).optional() }))
  .min(1)
  .max(max)
  .describe(SHAPE)

const refuse = (problem: string) => new ApiError('invalid_request', `loras ${problem}.`, { param: 'loras' })
const list = (names: readonly string[]) => names.join(', ')

/**
 * The adapters of a request with their scales, and the catalog without the models that they do not fit. Errors: invalid_request for adapters
 * that the account does not have, for adapters without a common model, and for a named model that they do not fit.
 */
export function chooseLoras(
  chosen: z.infer<typeof loras>,
  requestedModel: string,
  catalog: Catalog,
  account: string,
): { loras: LoraChoice[]; catalog: Catalog } {
  const available = lorasOf(catalog, account)
  const ids = chosen.map(({ id }) => id)
  const twice = ids.find((id, i) => ids.indexOf(id) !== i)
  if (twice !== undefined) throw refuse(`has ${shown(twice)} twice; name each adapter once`)
  const offers = ids.map((id) => available.find((offer) => offer.id === id) ?? refuseUnknown(id, available))
  const models = offers.map((offer) => offer.models).reduce((a, b) => a.filter((model) => b.includes(model)))
  if (models.length === 0)
    throw refuse(
      `have no model in common: ${offers.map(({ id, models }) => `${id} is for ${list(models)}`).join('; ')}`,
    )
  const model = requestedModel === 'auto' ? undefined : resolveModel(catalog, requestedModel)
  if (model !== undefined && !models.includes(model)) throw refuse(`are for ${list(models)}, not for ${shown(model)}`)
  return {
    loras: offers.map(({ id, scale }, i) => ({ id, scale: chosen[i]!.scale ?? scale })),
    catalog: { ...catalog, offers: catalog.offers.filter((offer) => models.includes(offer.model)) },
  }
}

function refuseUnknown(id: string, available: readonly LoraOffer[]): never {
  const names =
    available.length === 0 ? 'this deployment offers none' : `it must be one of ${list(available.map(({ id }) => id))}`
  throw refuse(`has the id ${shown(id)}; ${names}`)
}

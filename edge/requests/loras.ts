// The adapters (LoRAs) of a request.
import * as z from 'zod'
import { LIMITS, type LoraChoice } from '#contract'
import { isLoraUsable, lorasOf } from '../config/additions.ts'
import type { Catalog } from '../config/catalog.ts'
import { chooseAdditions, type RequestedModel } from './additions.ts'

const { max, scale } = LIMITS.loras
const SHAPE = `a list of 1 to ${max} objects with an id and, optionally, a scale from ${-scale} to ${scale}`

/** The field `loras`. The default scale is that of the catalog. */
export const loras = z
  .array(z.strictObject({ id: z.string().min(1).max(200), scale: z.number().min(-scale).max(scale).optional() }))
  .min(1)
  .max(max)
  .describe(SHAPE)

/**
 * Returns the adapters of a request with their scales, and the catalog restricted to compatible offers. Throws the errors of
 * chooseAdditions.
 */
export function chooseLoras(
  given: z.infer<typeof loras>,
  requested: RequestedModel,
  catalog: Catalog,
  account: string,
): { loras: LoraChoice[]; catalog: Catalog } {
  const kind = { field: 'loras', noun: 'adapter', fits: isLoraUsable } as const
  const ids = given.map(({ id }) => id)
  const found = chooseAdditions(kind, ids, lorasOf(catalog, account), requested, catalog)
  return {
    loras: found.chosen.map(({ id, scale }, i) => ({ id, scale: given[i]!.scale ?? scale })),
    catalog: found.catalog,
  }
}

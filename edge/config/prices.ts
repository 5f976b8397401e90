// Prices in micro-dollars: the variable OCTET_PRICES.
import * as z from 'zod'
import { TIER_TABLE, TIERS, type Tier } from '#contract'
import { MICRODOLLARS } from '../platform/units.ts'
import { createTableSchema } from './values.ts'

const DEFAULT_RATES = Object.fromEntries(TIERS.map((tier) => [tier, TIER_TABLE[tier].price])) as Record<Tier, number>

const rate = z.int().min(0).max(MICRODOLLARS)
const schema = z.strictObject({
  /** Per request. */
  base: rate.default(200),
  /** Surcharge per request with adapters or a ControlNet, which covers loading or updating weights. */
  addition: rate.default(250),
  /** Per megapixel-step, by tier. */
  megapixel_step: z
    .partialRecord(z.enum(TIERS), rate)
    .default({})
    .transform((given): Record<Tier, number> => ({ ...DEFAULT_RATES, ...given })),
})
export type Prices = z.infer<typeof schema>

export const DEFAULT_PRICES: Prices = schema.parse({})

export const prices = z
  .object({ OCTET_PRICES: createTableSchema(schema.prefault({})) })
  .transform(({ OCTET_PRICES }) => OCTET_PRICES)

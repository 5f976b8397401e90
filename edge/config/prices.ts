// Prices in micro-dollars: the variable OCTET_PRICES.
import * as z from 'zod'
import { TIERS, type Tier } from '#contract'
import { MICRODOLLARS } from '../platform/units.ts'
import { table } from './values.ts'

const rate = z.int().min(0).max(MICRODOLLARS)
const schema = z.strictObject({
  /** Per request. */
  base: rate.default(200),
  /** Per megapixel-step, by tier. */
  megapixel_step: z
    .partialRecord(z.enum(TIERS), rate)
    .default({})
    .transform((given): Record<Tier, number> => ({ 'fp8-lite': 240, fp8: 300, fp16: 480, fp32: 900, ...given })),
})
export type Prices = z.infer<typeof schema>

export const DEFAULT_PRICES: Prices = schema.parse({})

export const prices = z
  .object({ OCTET_PRICES: table(schema.prefault({})) })
  .transform(({ OCTET_PRICES }) => OCTET_PRICES)

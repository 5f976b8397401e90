// The price of a request in micro-dollars: a base price per request, plus a rate per megapixel-step that depends on the tier.
import * as z from 'zod'
import type { Tier } from '#contract'
import { TIERS } from '#contract'

/** Micro-dollars in a dollar. */
export const MICRODOLLARS = 1_000_000

/** Converts a dollar limit to whole micro-dollars, rounded down. */
export function microdollarsWithin(amount: number): number {
  const nearest = Math.round(amount * MICRODOLLARS)
  // Division is correctly rounded, so this comparison is exact, whereas multiplication may be off by one: $0.29 is 290000.
  return nearest / MICRODOLLARS > amount ? nearest - 1 : nearest
}

export const dollars = (microdollars: number) => `$${(microdollars / MICRODOLLARS).toFixed(6)}`

const rate = z.int().min(0).max(MICRODOLLARS)
const table = z.strictObject({
  base: rate.default(200),
  megapixel_step: z
    .partialRecord(z.enum(TIERS), rate)
    .default({})
    .transform((given): Record<Tier, number> => ({ 'fp8-lite': 240, fp8: 300, fp16: 480, fp32: 900, ...given })),
})
export type Prices = z.infer<typeof table>

export const DEFAULT_PRICES: Prices = table.parse({})

/** Parses OCTET_PRICES (micro-dollars), JSON text or a table in wrangler.toml. Omitted values get the default. Throws if it is malformed. */
export function readPrices(given: unknown): Prices {
  if (given === undefined) return DEFAULT_PRICES
  const parsed = table.safeParse(typeof given === 'string' ? JSON.parse(given) : given)
  if (!parsed.success) throw new Error(`OCTET_PRICES is malformed:\n${z.prettifyError(parsed.error)}`)
  return parsed.data
}

export type Work = { width: number; height: number; steps: number; guidanceScale: number; count: number }

/** Megapixels times steps of a request. Guidance runs every step twice. */
export const megapixelSteps = ({ width, height, steps, guidanceScale, count }: Work) =>
  ((width * height) / 1_000_000) * steps * (guidanceScale > 1 ? 2 : 1) * count

/** Price of a request in micro-dollars, rounded up. */
export function price(work: Work & { tier: Tier }, prices: Prices = DEFAULT_PRICES): number {
  return prices.base + Math.ceil(megapixelSteps(work) * prices.megapixel_step[work.tier])
}

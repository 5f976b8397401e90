import type { Tier } from '#contract'
import { DEFAULT_PRICES, type Prices } from '../config/prices.ts'

export type Work = { width: number; height: number; steps: number; guidanceScale: number; count: number }

/** Megapixels times steps of a request. Guidance runs every step twice. */
export const megapixelSteps = ({ width, height, steps, guidanceScale, count }: Work) =>
  ((width * height) / 1_000_000) * steps * (guidanceScale > 1 ? 2 : 1) * count

/** Price of a request in micro-dollars, rounded up. */
export function price(work: Work & { tier: Tier }, prices: Prices = DEFAULT_PRICES): number {
  return prices.base + Math.ceil(megapixelSteps(work) * prices.megapixel_step[work.tier])
}

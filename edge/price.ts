// What an image costs, in millionths of a US dollar: a base a request, and a rate a megapixel-step that depends on the tier.
import type { Tier } from './route.ts'

const BASE = 200
const MEGAPIXEL_STEP: Record<Tier, number> = { 'fp8-lite': 240, fp8: 300, fp16: 480, fp32: 900 }

type Work = { tier: Tier; width: number; height: number; steps: number; guidanceScale: number; count: number }

/** Price of a request in micro-dollars, rounded up. Guidance runs every step twice. */
export function price({ tier, width, height, steps, guidanceScale, count }: Work): number {
  const passes = guidanceScale > 1 ? 2 : 1
  const megapixelSteps = ((width * height) / 1_000_000) * steps * passes * count
  return BASE + Math.ceil(megapixelSteps * MEGAPIXEL_STEP[tier])
}

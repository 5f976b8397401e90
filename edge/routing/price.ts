import { countEvaluations, type ImageOptions, type JobRequest, type Tier } from '#contract'
import { DEFAULT_PRICES, type Prices } from '../config/prices.ts'

export type Work = ImageOptions &
  Pick<JobRequest, 'loras'> & {
    width: number
    height: number
    steps: number
    guidanceScale: number
    count: number
  }

/**
 * Megapixels times evaluations of the denoiser: a step has one, or two with guidance, or more with some samplers. With several `devices`,
 * only the evaluations of the busiest one, which determine the time but not the price.
 */
export const countMegapixelSteps = ({ width, height, guidanceScale, count, ...sampling }: Work, devices = 1) =>
  ((width * height) / 1_000_000) * countEvaluations({ ...sampling, guidance_scale: guidanceScale }, devices) * count

/** Step-independent part of a price, in micro-dollars. */
export const computeBasePrice = ({ loras, controls }: Pick<Work, 'loras' | 'controls'>, prices: Prices): number =>
  prices.base + (loras || controls ? prices.addition : 0)

/** Price of a request in micro-dollars, rounded up. */
export function price(work: Work & { tier: Tier }, prices: Prices = DEFAULT_PRICES): number {
  return computeBasePrice(work, prices) + Math.ceil(countMegapixelSteps(work) * prices.megapixel_step[work.tier])
}

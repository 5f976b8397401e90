// Cost per image by variant, GPU and traffic: the simulation with the figures of figures.json.
//
// A simulation, because the cost of a fleet that scales to zero has no closed form once images queue, share cold starts and arrive in bursts.
import { TIERS as ALL_TIERS, type Tier } from '../../gpu-fn/contract.ts'
import { VARIANTS as ALL_VARIANTS } from '../../gpu-fn/models/sd35/variants.ts'
import { randomOf } from '../command/random.ts'
import figures from './figures.json' with { type: 'json' }
import { type Outcome, simulate } from './simulate.ts'
import { drawArrivals, type Traffic } from './traffic.ts'

export type Variant = keyof typeof figures.variants
export type Gpu = keyof typeof figures.step_seconds
export const VARIANTS = Object.keys(figures.variants) as Variant[]
export const GPUS = Object.keys(figures.step_seconds) as Gpu[]
/** The tiers with figures. */
export const TIERS = ALL_TIERS.filter((tier) => tier in figures.package_gigabytes.large)

/** By default large-turbo in fp8 on an H100, with Poisson traffic and an idle window of two minutes. */
export type Case = {
  variant?: Variant
  tier?: Tier
  gpu?: Gpu
  traffic?: Traffic
  imagesPerDay: number
  idleSeconds?: number
  minContainers?: number
  seed?: number
}
export const DEFAULTS = {
  ...{ variant: 'large-turbo', tier: 'fp8', gpu: 'H100', traffic: 'poisson' },
  ...{ idleSeconds: 120, minContainers: 0, seed: 1 },
} as const satisfies Omit<Case, 'imagesPerDay'>

export type Cost = Outcome & { dollarsPerImage: number; utilization: number }

type ByTier = Partial<Record<Tier, number>>
const networkOf = (variant: Variant) => figures.variants[variant] as 'large' | 'medium'

/** Seconds per image of 1024 x 1024 on a warm container. A tier without a measured step time uses that of fp8. */
export function estimateServiceSeconds(variant: Variant, tier: Tier, gpu: Gpu): number {
  const { steps, guidanceScale } = ALL_VARIANTS.find(({ name }) => name === variant)!
  const times: ByTier = figures.step_seconds[gpu][networkOf(variant)]
  return (times[tier] ?? times.fp8!) * steps * (guidanceScale > 1 ? 2 : 1) + figures.overhead_seconds.value
}

export const estimatePackageGigabytes = (variant: Variant, tier: Tier) =>
  (figures.package_gigabytes[networkOf(variant)] as ByTier)[tier]!

/** Seconds of a cold start. */
export function estimateColdSeconds(variant: Variant, tier: Tier): number {
  const { boot_seconds, warm_seconds, fetch_gigabytes_per_second, load_gigabytes_per_second } = figures.cold_start
  const perGigabyte = 1 / fetch_gigabytes_per_second + 1 / load_gigabytes_per_second
  return boot_seconds + estimatePackageGigabytes(variant, tier) * perGigabyte + warm_seconds
}

/** Maximum and minimum number of simulated images; the minimum makes rare events visible. */
const MAX_IMAGES = 400_000
const MIN_IMAGES = 20_000
const DAY = 86_400
/** The maximum number of containers: ample for the mean load, so that it does not limit the fleet. */
const estimateMaxContainers = (load: number) => Math.ceil(load * 2) + 4

export function costOf(given: Case): Cost {
  const { variant, tier, gpu, traffic, imagesPerDay, idleSeconds, minContainers, seed } = { ...DEFAULTS, ...given }
  const rate = imagesPerDay / DAY
  const service = estimateServiceSeconds(variant, tier, gpu)
  const count = Math.min(MAX_IMAGES, Math.max(MIN_IMAGES, imagesPerDay))
  const random = randomOf(seed, `${traffic} ${imagesPerDay}`)
  const outcome = simulate(drawArrivals(traffic, rate, count, random), {
    ...{ service: () => service, coldSeconds: estimateColdSeconds(variant, tier), idleSeconds, minContainers },
    maxContainers: Math.max(minContainers, estimateMaxContainers(rate * service)),
  })
  const dollars = (outcome.containerSeconds / 3600) * figures.gpu_dollars_per_hour[gpu]
  return {
    ...outcome,
    dollarsPerImage: dollars / outcome.images,
    utilization: outcome.busySeconds / outcome.containerSeconds,
  }
}

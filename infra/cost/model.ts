// Cost per image by variant, GPU and traffic: the simulation with the figures of figures.json.
//
// A simulation, because the cost of a fleet that scales to zero has no closed form once images queue, share cold starts and arrive in bursts.
import { randomOf } from '../campaign/random.ts'
import figures from './figures.json' with { type: 'json' }
import { type Outcome, simulate } from './simulate.ts'
import { arrivals, type Traffic } from './traffic.ts'

export type Variant = keyof typeof figures.variants
export type Gpu = 'H100' | 'A100' | 'L40S'
export const VARIANTS = Object.keys(figures.variants) as Variant[]
export const TIERS = ['fp8', 'fp8-lite', 'fp16'] as const
export type Tier = (typeof TIERS)[number]
export const GPUS: readonly Gpu[] = ['H100', 'L40S', 'A100']

export type Case = {
  variant: Variant
  /** fp8 by default. */
  tier?: Tier
  gpu: Gpu
  traffic: Traffic
  imagesPerDay: number
  idleSeconds: number
  minContainers?: number
  seed?: number
}

export type Cost = Outcome & {
  dollarsPerImage: number
  utilization: number
  serviceSeconds: number
  coldSeconds: number
}

/** Seconds per image of 1024 x 1024 on a warm container. */
export function serviceSeconds(variant: Variant, tier: Tier, gpu: Gpu): number {
  const { network, steps, passes } = figures.variants[variant] as {
    network: 'large' | 'medium'
    steps: number
    passes: number
  }
  return (
    figures.step_seconds[gpu][network][tier === 'fp16' ? 'fp16' : 'fp8'] * steps * passes +
    figures.overhead_seconds.value
  )
}

/** Seconds of a cold start. */
export function coldSeconds(variant: Variant, tier: Tier): number {
  const { network } = figures.variants[variant] as { network: 'large' | 'medium' }
  const { boot_seconds, warm_seconds, fetch_gigabytes_per_second, load_gigabytes_per_second } = figures.cold_start
  const gigabytes = figures.package_gigabytes[network][tier]
  const perGigabyte = 1 / fetch_gigabytes_per_second + 1 / load_gigabytes_per_second
  return boot_seconds + gigabytes * perGigabyte + warm_seconds
}

/** Maximum and minimum number of simulated images; the minimum makes rare events visible. */
const MOST = 400_000
const FEWEST = 20_000
const DAY = 86_400
/** The maximum of containers: ample for the mean load, so that it does not limit the fleet. */
const room = (load: number) => Math.ceil(load * 2) + 4

export function costOf(given: Case): Cost {
  const { variant, tier = 'fp8', gpu, traffic, imagesPerDay, idleSeconds, minContainers = 0, seed = 1 } = given
  const rate = imagesPerDay / DAY
  const service = serviceSeconds(variant, tier, gpu)
  const cold = coldSeconds(variant, tier)
  const count = Math.min(MOST, Math.max(FEWEST, imagesPerDay))
  const random = randomOf(seed, `${traffic} ${imagesPerDay}`)
  const outcome = simulate(arrivals(traffic, rate, count, random), {
    ...{ service: () => service, coldSeconds: cold, idleSeconds, minContainers },
    maxContainers: Math.max(minContainers, room(rate * service)),
  })
  const dollars = (outcome.containerSeconds / 3600) * figures.gpu_dollars_per_hour[gpu]
  return {
    ...outcome,
    dollarsPerImage: dollars / outcome.images,
    utilization: outcome.busySeconds / outcome.containerSeconds,
    ...{ serviceSeconds: service, coldSeconds: cold },
  }
}

export const published = figures.published

// Distinct requests and jobs of `npm run bench -- repeats`, drawn from the seed.
import { type JobRequest, LIMITS } from '../../../gpu-fn/contract.ts'
import type { Random } from '../../command/random.ts'
import type { Tier } from '../gpu/packages.ts'

type Size = Pick<JobRequest, 'width' | 'height'>

/** Request fields that vary. */
export type Distinct = Size &
  Pick<JobRequest, 'tier' | 'prompt' | 'negative_prompt' | 'steps' | 'guidance_scale' | 'seed' | 'loras'>

export type RequestOptions = {
  /** Number of distinct requests. */
  requests: number
  /** Longest image side in pixels. */
  size: number
  tiers: readonly Tier[]
  /** IDs of the adapters. */
  loras: readonly string[]
}

/** `at`: time of the cancellation as a fraction of the expected job duration. */
export type Cancellation = { by: 'DELETE' | 'hanging up'; at: number }
/** `request`: index of the request. */
export type PlannedJob = { id: string; request: number; cancellation: Cancellation | null }

const STEPS = { min: 2, max: 8 }
const GUIDANCE_SCALE = 4
const LORA_SCALES = [0.3, 0.7, 1] as const
/** The last prompt exceeds CLIP's limit of 77 tokens. */
const PROMPTS = [
  'a red heart on a blue background',
  'an octopus in the sea',
  'a cat on grass',
  '',
  Array.from({ length: 12 }, () => 'a house in the snow, a green car in a city').join(', '),
] as const

const toMultiple = (pixels: number) =>
  Math.max(LIMITS.side.min, Math.round(pixels / LIMITS.side.multipleOf) * LIMITS.side.multipleOf)

/** A square, 4:3 in both orientations, and a square of half the side. */
export function sizesOf(side: number): Size[] {
  const [long, short, half] = [side, 0.75 * side, 0.5 * side].map(toMultiple) as [number, number, number]
  return [
    { width: long, height: long },
    { width: long, height: short },
    { width: short, height: long },
    { width: half, height: half },
  ]
}

const oneOf = <T>(values: readonly T[], random: Random): T => values[random.between(0, values.length - 1)]!

/** Draws one or more adapters, each with a random scale. */
function drawLoras(ids: readonly string[], random: Random): NonNullable<JobRequest['loras']> {
  const first = random.between(0, ids.length - 1)
  const count = random.between(1, Math.min(ids.length, LIMITS.loras.max))
  return Array.from({ length: count }, (_, k) => ({
    id: ids[(first + k) % ids.length]!,
    scale: oneOf(LORA_SCALES, random),
  }))
}

/** Draws the distinct requests. On average, half of them use adapters if there are any. */
export function drawRequests({ requests, size, tiers, loras }: RequestOptions, random: Random): Distinct[] {
  const sizes = sizesOf(size)
  return Array.from({ length: requests }, (_, seed) => ({
    ...{ tier: oneOf(tiers, random), ...oneOf(sizes, random), prompt: oneOf(PROMPTS, random) },
    ...(random.chance(0.5)
      ? { guidance_scale: GUIDANCE_SCALE, negative_prompt: 'a dog' }
      : { guidance_scale: 1, negative_prompt: '' }),
    ...{ steps: random.between(STEPS.min, STEPS.max), seed },
    ...(loras.length > 0 && random.chance(0.5) && { loras: drawLoras(loras, random) }),
  }))
}

/** Draws the jobs: each submits a random request, and is canceled at a random time with probability `cancels`. */
export function drawJobs(
  { jobs, requests, cancels }: { jobs: number; requests: number; cancels: number },
  random: Random,
): PlannedJob[] {
  return Array.from({ length: jobs }, (_, k) => {
    const request = random.between(0, requests - 1)
    const by = random.chance(0.5) ? 'DELETE' : 'hanging up'
    const cancellation: Cancellation | null = random.chance(cancels) ? { by, at: random.next() } : null
    return { id: `repeat-${k}`, request, cancellation }
  })
}

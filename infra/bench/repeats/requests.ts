// The distinct requests of `npm run bench -- repeats` and its jobs, which the seed determines.
import { type JobRequest, LIMITS } from '../../../gpu-fn/contract.ts'
import type { Random } from '../../command/random.ts'
import type { Tier } from '../gpu/packages.ts'

type Size = Pick<JobRequest, 'width' | 'height'>

/** The fields that differ between the requests. */
export type Distinct = Size &
  Pick<JobRequest, 'tier' | 'prompt' | 'negative_prompt' | 'steps' | 'guidance_scale' | 'seed' | 'loras'>

export type RequestOptions = {
  /** Number of distinct requests. */
  requests: number
  /** Longest side of an image, in pixels. */
  size: number
  tiers: readonly Tier[]
  /** IDs of the adapters. */
  loras: readonly string[]
}

/** A cancellation of a job; `at`: its time, as a share of the usual duration of the job. */
export type Cancellation = { by: 'DELETE' | 'hanging up'; at: number }
/** `request`: index of its request. */
export type PlannedJob = { id: string; request: number; cancellation: Cancellation | null }

const STEPS = { min: 2, max: 8 }
const GUIDANCE_SCALE = 4
const LORA_SCALES = [0.3, 0.7, 1] as const
/** The last one exceeds the 77 tokens of CLIP. */
const PROMPTS = [
  'a red heart on a blue background',
  'an octopus in the sea',
  'a cat on grass',
  '',
  Array.from({ length: 12 }, () => 'a house in the snow, a green car in a city').join(', '),
] as const

const toMultiple = (pixels: number) =>
  Math.max(LIMITS.side.min, Math.round(pixels / LIMITS.side.multipleOf) * LIMITS.side.multipleOf)

/** A square, both orientations of 4:3, and a square of a quarter of the area. */
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

/** Draws between one and all of the adapters, with a strength each. */
function drawLoras(ids: readonly string[], random: Random): NonNullable<JobRequest['loras']> {
  const first = random.between(0, ids.length - 1)
  const count = random.between(1, Math.min(ids.length, LIMITS.loras.max))
  return Array.from({ length: count }, (_, k) => ({
    id: ids[(first + k) % ids.length]!,
    scale: oneOf(LORA_SCALES, random),
  }))
}

/** Draws the distinct requests. With adapters, half of the requests have some. */
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

/** Draws the sequence of jobs: each repeats a random request, and the share `cancels` of them is canceled at a random time. */
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

import * as z from 'zod'
import { LIMITS } from './limits.ts'
import { modelName, SAMPLERS, SCHEDULES } from './names.ts'

/** As in diffusers' StableDiffusion3Img2ImgPipeline. */
export const DEFAULT_STRENGTH = 0.6

/** Decreasing noise levels above 0, before the shift, as in diffusers. */
export const sigmas = z
  .array(z.number().gt(0).max(1))
  .min(LIMITS.steps.min)
  .max(LIMITS.steps.max)
  .refine(
    (levels) => levels.every((level, i) => i === 0 || level < levels[i - 1]!),
    'sigmas must decrease at every step.',
  )

/** A share of a request's steps. */
const share = z.number().min(0).max(1)
/** The shares of the steps between which guidance runs: step i of N if trunc(start · N) ≤ i < trunc(stop · N), as in diffusers' guiders. */
export const guidanceInterval = z.strictObject({ start: share, stop: share })
/**
 * Skip-layer guidance as in diffusers: step i of N, if start · N < i < stop · N, also evaluates the denoiser without the blocks `layers`
 * and moves the velocity away from that result. The default of `layers` is in the package.
 */
export const skipLayerGuidance = z.strictObject({
  scale: z.number().min(0).max(LIMITS.guidanceScale.max),
  start: share,
  stop: share,
  layers: z
    .array(
      z
        .int()
        .min(0)
        .max(LIMITS.layers - 1),
    )
    .min(1)
    .max(LIMITS.layers)
    .optional(),
})
/** Stability's settings for Medium. */
export const SKIP_LAYER_DEFAULTS = { scale: 2.5, start: 0.01, stop: 0.2 } as const

/**
 * A ControlNet of a job: its ID, its strength, and the shares of the steps between which it runs: in step i of N if start ≤ i ÷ N and
 * (i + 1) ÷ N ≤ stop, as in diffusers.
 */
export const controlChoice = z.strictObject({
  id: modelName,
  scale: z.number().min(0).max(LIMITS.controls.scale),
  start: share.optional(),
  stop: share.optional(),
})
export type ControlChoice = z.infer<typeof controlChoice>

/** Optional fields of a request that change its image. Files and receipts state those that are given. */
const imageOptions = z.strictObject({
  /** Tokens of T5, as in diffusers; absent: 256. */
  max_sequence_length: z.int().min(LIMITS.maxSequenceLength.min).max(LIMITS.maxSequenceLength.max).optional(),
  /** Default: the package's sampler. The worker always sends one. */
  sampler: z.enum(SAMPLERS).optional(),
  noise_schedule: z.enum(SCHEDULES).optional(),
  /** Custom noise levels instead of `noise_schedule`, one for each step. */
  sigmas: sigmas.optional(),
  /** The shift of the noise levels; absent: the package's. */
  shift: z.number().min(LIMITS.shift.min).max(LIMITS.shift.max).optional(),
  guidance_interval: guidanceInterval.optional(),
  skip_layer_guidance: skipLayerGuidance.optional(),
  /** Step caching; absent: every step runs the denoiser. */
  cache: z.literal('fast').optional(),
  /** Whether `(word:1.3)` is a weight; tokenizer/prompt-weights.ts. */
  prompt_weights: z.literal(true).optional(),
  /** The share of the steps that run on the input image; absent: `DEFAULT_STRENGTH`. */
  strength: z.number().min(LIMITS.strength.min).max(LIMITS.strength.max).optional(),
  /** ControlNets of the model, whose image is the input `control`. */
  controls: z.array(controlChoice).min(1).max(LIMITS.controls.max).optional(),
})
export const imageOptionFields = imageOptions.shape
export type ImageOptions = z.infer<typeof imageOptions>

/** The image options present in a request. */
export function imageOptionsOf(request: ImageOptions): ImageOptions {
  const given = Object.entries(request).filter(([name, value]) => name in imageOptionFields && value !== undefined)
  return Object.fromEntries(given)
}

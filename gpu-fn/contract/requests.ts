import * as z from 'zod'
import { imageOptionFields } from './image-options.ts'
import { LIMITS } from './limits.ts'
import {
  IMAGE_FITS,
  INPUT_NAMES,
  modelName,
  OUTPUT_FORMATS,
  PROTOCOL_VERSION,
  REPAINTS,
  sha256Hex,
  TEXT_CONVENTIONS,
  TIERS,
} from './names.ts'
import { seed } from './seed.ts'

/** An adapter of a job: its ID and its strength. */
export const loraChoice = z.strictObject({
  id: modelName,
  scale: z.number().min(-LIMITS.loras.scale).max(LIMITS.loras.scale),
})
export type LoraChoice = z.infer<typeof loraChoice>

/** A side of an image in pixels. */
export const side = z.int().min(LIMITS.side.min).max(LIMITS.side.max).multipleOf(LIMITS.side.multipleOf)
const prompt = z.string().max(LIMITS.promptCharacters)

/** The order of jobs on the GPU: interactive ones first, and a fair share for each account. */
const jobSchedule = z.strictObject({
  /** An opaque name of the account. */
  tenant: z.string().regex(/^[A-Za-z0-9_-]{1,64}$/),
  /** The account's share relative to others. */
  weight: z.number().min(0.01).max(100),
  /** Whether a caller waits for the images, which take few steps. */
  interactive: z.boolean(),
  /** The maximum time from acceptance to end. A job that cannot meet it is refused. */
  max_latency_ms: z.int().min(1).optional(),
})
export type JobSchedule = z.infer<typeof jobSchedule>

/** Body of `PUT /jobs/{id}`. Image k of `count` uses `seed + k` modulo 2^64. `guidance_scale` ≤ 1 runs without CFG, as diffusers does. */
export const jobRequest = z.strictObject({
  protocol: z.literal(PROTOCOL_VERSION),
  attempt: z.int().min(1),
  model: modelName,
  tier: z.enum(TIERS),
  prompt,
  /** The prompts of the second and third encoder, as in diffusers; absent or empty: `prompt`. */
  prompt_2: prompt.optional(),
  prompt_3: prompt.optional(),
  negative_prompt: prompt,
  width: side,
  height: side,
  steps: z.int().min(LIMITS.steps.min).max(LIMITS.steps.max),
  guidance_scale: z.number().min(LIMITS.guidanceScale.min).max(LIMITS.guidanceScale.max),
  seed,
  count: z.int().min(LIMITS.count.min).max(LIMITS.count.max),
  output_format: z.enum(OUTPUT_FORMATS),
  output_quality: z.int().min(1).max(100),
  text_convention: z.enum(TEXT_CONVENTIONS),
  ...imageOptionFields,
  /** Interval of `preview` events in steps; no previews by default. */
  preview_steps: z.int().min(1).max(LIMITS.steps.max).optional(),
  /** `false` omits the prompts from the files' metadata. */
  prompt_metadata: z.literal(false).optional(),
  /** Adapters of the model, applied to every image; absent: none. */
  loras: z.array(loraChoice).min(1).max(LIMITS.loras.max).optional(),
  /** Files of these lengths follow the body's JSON line in this order. An `image` is required; a `mask` is optional. */
  inputs: z
    .array(
      z.strictObject({
        name: z.enum(INPUT_NAMES),
        bytes: z.int().min(1).max(LIMITS.inputBytes),
        sha256: sha256Hex,
      }),
    )
    .min(1)
    .max(INPUT_NAMES.length)
    .optional(),
  /** Absent: `crop`. */
  image_fit: z.enum(IMAGE_FITS).optional(),
  /** Absent: `white`. */
  repaint: z.enum(REPAINTS).optional(),
  /** Standard deviation of the blur of the mask's edge, in pixels of the result; absent: 0. */
  mask_feather: z.number().min(0).max(LIMITS.maskFeather).optional(),
  /** How the job shares the GPU. It does not identify the job, and a retry may change it. Absent: weight 1 in a tenant without a name. */
  schedule: jobSchedule.optional(),
})
export type JobRequest = z.infer<typeof jobRequest>
export type JobInput = NonNullable<JobRequest['inputs']>[number]

/** Body of `PUT /models/{model}`, which opens a model ahead of its jobs. */
export const modelRequest = z.strictObject({ tier: z.enum(TIERS) })

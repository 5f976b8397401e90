import * as z from 'zod'
import { controlChoice } from './image-options.ts'
import { LIMITS } from './limits.ts'
import { CONTENT_TYPES, jobId, sha256Hex, TIERS } from './names.ts'
import { loraChoice, side } from './requests.ts'
import { seed } from './seed.ts'

/** Failures of accepted jobs. `invalid_request` is an error of the request; the others are faults of the service. */
const JOB_ERROR_CODES = ['invalid_request', 'model_not_available', 'out_of_memory', 'internal'] as const
export const WARNING_CODES = [
  'prompt_truncated',
  'prompt_words_unknown',
  'prompt_weights_ignored',
  'image_adjusted',
] as const

const seconds = z.number().min(0)
/** Durations of a job's phases in seconds. `queue` includes preemption by other jobs; `load` is 0 if the package was open. */
export const timings = z.strictObject({
  queue: seconds,
  load: seconds,
  encode: seconds,
  denoise: seconds,
  decode: seconds,
  total: seconds,
})
export type Timings = z.infer<typeof timings>

const index = z.int().min(0)
/** One line of the reply stream. A line with `bytes: n` is followed by exactly n raw bytes. */
export const jobEvent = z.discriminatedUnion('type', [
  /** `position`: number of jobs ahead of this one; 0 while it runs. */
  z.strictObject({ type: z.literal('accepted'), job: jobId, attempt: z.int().min(1), position: index }),
  z.strictObject({ type: z.literal('heartbeat') }),
  /** The job's model is loaded and its first step follows. Jobs of a higher priority may still preempt it. Run-time limits start here. */
  z.strictObject({
    type: z.literal('started'),
    model: z.string(),
    tier: z.enum(TIERS),
    package: sha256Hex,
    device: z.string(),
    /** The job's adapters with the digests of their packages. */
    loras: z.array(loraChoice.extend({ package: sha256Hex })).optional(),
    /** The job's ControlNets with the digests of their packages. */
    controls: z.array(controlChoice.extend({ package: sha256Hex })).optional(),
  }),
  z.strictObject({ type: z.literal('warning'), code: z.enum(WARNING_CODES), message: z.string() }),
  z.strictObject({ type: z.literal('step'), image: index, step: z.int().min(1), steps: z.int().min(1) }),
  z.strictObject({
    type: z.literal('image'),
    image: index,
    seed,
    width: side,
    height: side,
    content_type: z.enum(CONTENT_TYPES),
    sha256: sha256Hex,
    bytes: z.int().min(1).max(LIMITS.imageBytes),
  }),
  /** The image after `step`, small and approximate; only from models with a preview of their latents. */
  z.strictObject({
    type: z.literal('preview'),
    image: index,
    step: z.int().min(1),
    width: z.int().min(1).max(LIMITS.side.max),
    height: z.int().min(1).max(LIMITS.side.max),
    content_type: z.enum(CONTENT_TYPES),
    bytes: z.int().min(1).max(LIMITS.previewBytes),
  }),
  z.strictObject({ type: z.literal('succeeded'), images: z.int().min(1), timings }),
  z.strictObject({ type: z.literal('failed'), code: z.enum(JOB_ERROR_CODES), message: z.string() }),
  /** After `DELETE /jobs/{id}`, or because the job had no reader for too long. */
  z.strictObject({ type: z.literal('canceled'), steps_done: z.int().min(0), timings }),
])
export type JobEvent = z.infer<typeof jobEvent>
export type JobErrorCode = (typeof JOB_ERROR_CODES)[number]

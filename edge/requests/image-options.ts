// The optional fields that choose how an image is sampled, and their checks against each other.
import * as z from 'zod'
import {
  CACHES,
  countRunSteps,
  findReusedSteps,
  guidanceInterval,
  type ImageOptions,
  LIMITS,
  SAMPLERS,
  SCHEDULES,
  SKIP_LAYER_DEFAULTS,
  sigmas,
  skipLayerGuidance,
} from '#contract'
import { ApiError } from '../http/errors.ts'
import type { Decision, Warning } from '../routing/decision.ts'

const { steps, shift, maxSequenceLength, betaSteps, cacheSteps } = LIMITS
const createChoiceSchema = <const T extends readonly string[]>(values: T) =>
  z.enum(values).describe(`one of ${values.join(', ')}`)

export const imageOptionFields = {
  /** Tokens of T5, as in diffusers. */
  max_sequence_length: z
    .int()
    .min(maxSequenceLength.min)
    .max(maxSequenceLength.max)
    .describe(`an integer from ${maxSequenceLength.min} to ${maxSequenceLength.max}`)
    .optional(),
  sampler: createChoiceSchema(SAMPLERS).optional(),
  noise_schedule: createChoiceSchema(SCHEDULES).optional(),
  /** One noise level per step, before the shift, as in diffusers. */
  sigmas: sigmas
    .describe(`a list of ${steps.min} to ${steps.max} decreasing numbers, above 0 and at most 1, one for each step`)
    .optional(),
  guidance_interval: guidanceInterval
    .partial()
    .describe('an object with start, stop or both, shares of the steps from 0 to 1')
    .optional(),
  skip_layer_guidance: z
    .union([z.boolean(), skipLayerGuidance.partial()])
    .describe(`true, or an object with any of scale, start, stop and layers (numbers below ${LIMITS.layers})`)
    .optional(),
  /** Step caching, on the full route only. */
  cache: createChoiceSchema(CACHES).optional(),
  /** Whether `(word:1.3)` is a weight, as in ComfyUI, or plain text. */
  prompt_weights: z.boolean().describe('true or false').optional(),
  shift: z.number().min(shift.min).max(shift.max).describe(`a number from ${shift.min} to ${shift.max}`).optional(),
}

type ImageOptionFields = z.infer<z.ZodObject<typeof imageOptionFields>>
type Fields = ImageOptionFields & { steps?: number | undefined }

const refuse = (param: string, message: string) => new ApiError('invalid_request', message, { param })

/** The number of steps: `steps`, or the number of `sigmas`. Errors: invalid_request if both are given and differ. */
export function stepsOf({ steps, sigmas }: Fields): number | undefined {
  if (sigmas && steps !== undefined && steps !== sigmas.length)
    throw refuse('sigmas', `sigmas has ${sigmas.length} levels, but steps is ${steps}; leave one of them out.`)
  return sigmas?.length ?? steps
}

function checkSchedule({ sigmas, noise_schedule: schedule }: ImageOptionFields, steps: number): void {
  if (sigmas && schedule) throw refuse('sigmas', 'sigmas and noise_schedule are both given; use one of them.')
  if (schedule !== 'beta' || steps <= betaSteps) return
  const message = `steps is ${steps}; noise_schedule beta has at most ${betaSteps}. Use fewer steps or another one.`
  throw refuse('steps', message)
}

type Skip = Exclude<ImageOptionFields['skip_layer_guidance'], boolean | undefined>

function skipOf({ scale, start, stop, layers }: Skip): NonNullable<ImageOptions['skip_layer_guidance']> {
  const { scale: published, start: first, stop: last } = SKIP_LAYER_DEFAULTS
  return { scale: scale ?? published, start: start ?? first, stop: stop ?? last, ...(layers && { layers }) }
}

/** The options of a job with guidance that have no effect without it. Errors: invalid_request. */
function chooseGuidanceOptions({
  guidance_interval: interval,
  skip_layer_guidance: skip,
}: ImageOptionFields): ImageOptions {
  const { start = 0, stop = 1 } = interval ?? {}
  if (start >= stop)
    throw refuse('guidance_interval', `guidance_interval is ${start} to ${stop}; it must begin before it ends.`)
  return {
    ...(interval && { guidance_interval: { start, stop } }),
    ...(skip && { skip_layer_guidance: skipOf(skip === true ? {} : skip) }),
  }
}

/** Errors: invalid_request for a sampler or a number of steps that step caching does not support. */
function checkCache(steps: number, sampler: Decision['sampler']): void {
  if (sampler === 'lcm')
    throw refuse('cache', 'cache is "fast", but sampler is "lcm"; with cache it must be euler, dpmpp_2m or heun.')
  if (steps < cacheSteps)
    throw refuse('cache', `cache is "fast", but steps is ${steps}; with cache it must be at least ${cacheSteps}.`)
}

/** A warning that states the number of cached steps; none if step caching is off. */
export function describeCache(request: Parameters<typeof findReusedSteps>[0]): Warning[] {
  if (!request.cache) return []
  const { size } = findReusedSteps(request)
  const total = countRunSteps(request.steps, request.strength)
  if (size > 0) {
    const message = `cache "fast": ${size} of ${total} steps reused results of earlier steps; the image differs slightly from one without cache.`
    return [{ code: 'steps_cached', message }]
  }
  const message = `cache had no effect: none of the ${total} steps of this request can be reused.`
  return [{ code: 'cache_ignored', message }]
}

/** The image options of a job: those of the fields, and the offer's sampler. Errors: invalid_request. */
export function chooseImageOptions(
  fields: ImageOptionFields,
  { steps, sampler: offered, guidanceScale }: Pick<Decision, 'steps' | 'sampler' | 'guidanceScale'>,
): ImageOptions {
  const { max_sequence_length, sampler = offered, noise_schedule, sigmas, shift, prompt_weights, cache } = fields
  checkSchedule(fields, steps)
  if (cache === 'fast') checkCache(steps, sampler)
  return {
    ...(max_sequence_length && { max_sequence_length }),
    sampler,
    ...(noise_schedule && { noise_schedule }),
    ...(sigmas && { sigmas }),
    ...(shift && { shift }),
    ...(prompt_weights && { prompt_weights }),
    ...(cache === 'fast' && { cache }),
    ...(guidanceScale > 1 && chooseGuidanceOptions(fields)),
  }
}

/** The names of the request's fields that have no effect without guidance. */
export const fieldsOfGuidance = ({ guidance_interval, skip_layer_guidance }: ImageOptionFields): string[] => [
  ...(guidance_interval ? ['guidance_interval'] : []),
  ...(skip_layer_guidance ? ['skip_layer_guidance'] : []),
]

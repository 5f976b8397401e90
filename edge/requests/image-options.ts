// The optional fields that choose how an image is sampled, and their checks against each other.
import * as z from 'zod'
import { type ImageOptions, LIMITS, SAMPLERS, SCHEDULES, sigmas } from '#contract'
import { ApiError } from '../http/errors.ts'
import type { Decision } from '../routing/decision.ts'

const { steps, shift, maxSequenceLength, betaSteps } = LIMITS
const choice = <const T extends readonly string[]>(values: T) => z.enum(values).describe(`one of ${values.join(', ')}`)

export const imageOptionFields = {
  /** Tokens of T5, as in diffusers. */
  max_sequence_length: z
    .int()
    .min(maxSequenceLength.min)
    .max(maxSequenceLength.max)
    .describe(`an integer from ${maxSequenceLength.min} to ${maxSequenceLength.max}`)
    .optional(),
  sampler: choice(SAMPLERS).optional(),
  schedule: choice(SCHEDULES).optional(),
  /** One noise level per step, before the shift, as in diffusers. */
  sigmas: sigmas
    .describe(`a list of ${steps.min} to ${steps.max} falling numbers, above 0 and at most 1, one for each step`)
    .optional(),
  shift: z.number().min(shift.min).max(shift.max).describe(`a number from ${shift.min} to ${shift.max}`).optional(),
}

type Fields = ImageOptions & { steps?: number | undefined }

const refuse = (param: string, message: string) => new ApiError('invalid_request', message, { param })

/** The steps of a request, which `sigmas` may state. Errors: invalid_request. */
export function stepsOf({ steps, sigmas }: Fields): number | undefined {
  if (sigmas && steps !== undefined && steps !== sigmas.length)
    throw refuse('sigmas', `sigmas has ${sigmas.length} levels, but steps is ${steps}; leave one of them out.`)
  return sigmas?.length ?? steps
}

/** The image options of a job: those of the fields, and the offer's sampler. Errors: invalid_request. */
export function chooseImageOptions(
  { max_sequence_length, sampler, schedule, sigmas, shift }: Fields,
  decision: Pick<Decision, 'steps' | 'sampler'>,
): ImageOptions {
  if (sigmas && schedule) throw refuse('sigmas', 'sigmas and schedule are both given; use one of them.')
  if (schedule === 'beta' && decision.steps > betaSteps) {
    const message = `steps is ${decision.steps}; schedule beta has at most ${betaSteps}. Use fewer steps or another schedule.`
    throw refuse('steps', message)
  }
  const chosen = sampler ?? decision.sampler
  return {
    ...(max_sequence_length && { max_sequence_length }),
    ...(chosen && { sampler: chosen }),
    ...(schedule && { schedule }),
    ...(sigmas && { sigmas }),
    ...(shift && { shift }),
  }
}

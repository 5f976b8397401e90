// What a caller may ask of an image, in OpenAI's names (and ours where OpenAI has none), and the job that it comes to.

import * as z from 'zod'
import { LIMITS, OUTPUT_FORMATS, ROUTES, TIERS } from '#contract'
import { readCatalogue } from './catalogue.ts'
import type { Env } from './env.ts'
import { ApiError } from './errors.ts'
import { type JobSpec, newJobId } from './job-record.ts'
import type { Credential } from './keys.ts'
import { price } from './price.ts'
import { chooseRoute, QUALITIES } from './route.ts'

type Bounds = { min: number; max: number }
const SIDE = `${LIMITS.side.min} to ${LIMITS.side.max} and divisible by ${LIMITS.side.multipleOf}`

const text = (min: number, max: number) =>
  z.string().min(min).max(max).describe(`a text of ${min} to ${max} characters`)
const integer = ({ min, max }: Bounds) => z.int().min(min).max(max).describe(`an integer from ${min} to ${max}`)
const number = ({ min, max }: Bounds) => z.number().min(min).max(max).describe(`a number from ${min} to ${max}`)
const choice = <const T extends readonly string[]>(values: T) => z.enum(values).describe(`one of ${values.join(', ')}`)
const side = integer(LIMITS.side).multipleOf(LIMITS.side.multipleOf).describe(`an integer, ${SIDE}`)
const size = z
  .string()
  .regex(/^(auto|[1-9]\d{0,3}x[1-9]\d{0,3})$/)
  .describe(`"auto" or "WIDTHxHEIGHT", each side ${SIDE}`)

/** `auto` leaves a choice to route.ts. A field's description completes the sentence "it must be …". */
export const generation = z.strictObject({
  prompt: text(1, LIMITS.promptCharacters),
  negative_prompt: text(0, LIMITS.promptCharacters).default(''),
  model: z.string().max(64).describe('"auto" or a model of GET /v1/models').default('auto'),
  n: integer(LIMITS.count).default(1),
  size: size.default('auto'),
  width: side.optional(),
  height: side.optional(),
  seed: integer({ min: 0, max: LIMITS.seedMax }).optional(),
  steps: integer(LIMITS.steps).optional(),
  guidance_scale: number(LIMITS.guidanceScale).optional(),
  quality: choice(QUALITIES).default('auto'),
  route: choice(['auto', ...ROUTES]).default('auto'),
  tier: choice(['auto', ...TIERS]).default('auto'),
  response_format: choice(['url', 'b64_json']).default('url'),
  output_format: choice(OUTPUT_FORMATS).default('png'),
  output_compression: integer({ min: 0, max: 100 }).optional(),
  /** OpenAI's; accepted and not used. */
  user: text(0, 256).optional(),
})
export type Generation = z.infer<typeof generation>

const unlessAuto = <T extends string>(value: T | 'auto') => (value === 'auto' ? undefined : value)

function sizeOf({ size, width, height }: Generation): { width: number; height: number } | undefined {
  if (size !== 'auto') {
    if (width !== undefined || height !== undefined)
      throw new ApiError('invalid_request', 'size and width/height are both given; use one of them.', { param: 'size' })
    const [wide, high] = size.split('x').map(Number)
    if (side.safeParse(wide).success && side.safeParse(high).success) return { width: wide!, height: high! }
    throw new ApiError('invalid_request', `size is "${size}"; each side must be ${SIDE}.`, { param: 'size' })
  }
  if (width !== undefined && height !== undefined) return { width, height }
  if (width === undefined && height === undefined) return undefined
  const [given, missing] = width === undefined ? ['height', 'width'] : ['width', 'height']
  throw new ApiError('invalid_request', `${missing} is missing; ${given} and ${missing} go together.`, {
    param: missing!,
  })
}

/** JPEG and WebP quality: OpenAI's `output_compression`, 100 the best. */
function outputQuality({ output_compression, output_format }: Generation): number {
  if (output_compression !== undefined && output_format === 'png') {
    const message = `output_compression is ${output_compression}, but png is lossless; leave it out or choose jpeg or webp.`
    throw new ApiError('invalid_request', message, { param: 'output_compression' })
  }
  return Math.max(1, output_compression ?? 90)
}

/** The job that a request asks for: routed, seeded and priced. */
export function specify(fields: Generation, env: Env, { account, keyId }: Credential): JobSpec {
  const { prompt, negative_prompt, quality, steps, n, output_format } = fields
  const wishes = {
    route: unlessAuto(fields.route),
    model: unlessAuto(fields.model),
    tier: unlessAuto(fields.tier),
    size: sizeOf(fields),
  }
  const decision = chooseRoute(
    { prompt, negativePrompt: negative_prompt, quality, steps, guidanceScale: fields.guidance_scale, ...wishes },
    readCatalogue(env),
  )
  const { model, tier, width, height, guidanceScale } = decision
  const request = {
    ...{
      model,
      tier,
      prompt,
      negative_prompt,
      width,
      height,
      steps: decision.steps,
      guidance_scale: guidanceScale,
      count: n,
    },
    seed: fields.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!,
    output_format,
    output_quality: outputQuality(fields),
    text_convention: 'diffusers' as const,
  }
  return {
    id: newJobId(),
    account,
    keyId,
    created: Date.now(),
    request,
    decision,
    price: price({ ...decision, count: n }),
  }
}

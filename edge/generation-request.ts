// What a caller may ask of an image, in OpenAI's names (and ours where OpenAI has none), and the job that it comes to.

import * as z from 'zod'
import { describeOversize, LIMITS, OUTPUT_FORMATS, ROUTES, TIERS } from '#contract'
import { readCatalogue } from './catalogue.ts'
import type { Env } from './env.ts'
import { ApiError } from './errors.ts'
import { latencyMs, observations } from './forecast.ts'
import { type JobSpec, newJobId } from './job-record.ts'
import { type Credential, sha256 } from './keys.ts'
import { megapixelSteps, microdollarsWithin, price, readPrices } from './price.ts'
import { DEFAULT_RETENTION_DAYS } from './retention.ts'
import { chooseRoute, type Decision, QUALITIES, type RouteRequest } from './route.ts'
import { checkAddress } from './webhook-address.ts'

type Bounds = { min: number; max: number }
const SIDE = `${LIMITS.side.min} to ${LIMITS.side.max} and divisible by ${LIMITS.side.multipleOf}`

const text = (min: number, max: number) =>
  z.string().min(min).max(max).describe(`a text of ${min} to ${max} characters`)

/** A character that shows: none of spaces, control and format characters, those that fonts draw as nothing, and the empty braille cell. */
const VISIBLE = /[^\s\p{Cc}\p{Cf}\p{Cs}\p{Default_Ignorable_Code_Point}\u2800]/u
const isBlank = (text: string) => !VISIBLE.test(text)
const integer = ({ min, max }: Bounds) => z.int().min(min).max(max).describe(`an integer from ${min} to ${max}`)
const number = ({ min, max }: Bounds) => z.number().min(min).max(max).describe(`a number from ${min} to ${max}`)
const choice = <const T extends readonly string[]>(values: T) => z.enum(values).describe(`one of ${values.join(', ')}`)
const side = integer(LIMITS.side).multipleOf(LIMITS.side.multipleOf).describe(`an integer, ${SIDE}`)
const size = z
  .string()
  .regex(/^(auto|[1-9]\d{0,3}x[1-9]\d{0,3})$/)
  .describe(`"auto" or "WIDTHxHEIGHT", each side ${SIDE}`)

/** The most previews of an image, and how many `preview: true` asks for. */
const PREVIEWS = 3

/** `auto` leaves a choice to route.ts. A field's description completes the sentence "it must be …". */
export const generation = z.strictObject({
  prompt: text(1, LIMITS.promptCharacters).refine(
    (prompt) => !isBlank(prompt),
    'prompt has no visible character; say what the image shows.',
  ),
  /** A blank one is none. It must not choose the route. */
  negative_prompt: text(0, LIMITS.promptCharacters)
    .overwrite((text) => (isBlank(text) ? '' : text))
    .default(''),
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
  preview: z.boolean().describe('true or false').optional(),
  /** OpenAI's: how many previews an image has. */
  partial_images: integer({ min: 0, max: PREVIEWS }).optional(),
  /** What becomes of the job when the caller who waits for it leaves. */
  on_disconnect: choice(['continue', 'cancel']).optional(),
  /** Of the whole request. */
  max_cost: number({ min: 0, max: 1000 }).describe('a number of US dollars from 0 to 1000').optional(),
  max_latency_ms: integer({ min: 1, max: 3_600_000 }).optional(),
  /** Is told when the job has ended. */
  webhook: z.string().describe('an https:// address').optional(),
  /** Takes the images of an identical finished job, at no price. */
  reuse: z.boolean().describe('true or false').optional(),
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

/** Steps between previews, the last step apart; nothing when none are asked for. */
function previewSteps({ preview, partial_images }: Generation, steps: number): { preview_steps?: number } {
  const previews = partial_images ?? (preview ? PREVIEWS : 0)
  return previews === 0 ? {} : { preview_steps: Math.ceil(steps / (previews + 1)) }
}

/** What route.ts is asked of a request. */
function routeRequest(fields: Generation): RouteRequest {
  const { prompt, negative_prompt, quality, steps, guidance_scale, max_cost, max_latency_ms } = fields
  return {
    ...{ prompt, negativePrompt: negative_prompt, quality, steps, guidanceScale: guidance_scale },
    route: unlessAuto(fields.route),
    model: unlessAuto(fields.model),
    tier: unlessAuto(fields.tier),
    size: sizeOf(fields),
    maxCost: max_cost === undefined ? undefined : microdollarsWithin(max_cost),
    maxLatencyMs: max_latency_ms,
  }
}

/** How a request would run, and its price in micro-dollars. Only max_latency_ms costs a look at the forecasts. Errors: what route.ts refuses. */
export async function chosen(
  fields: Generation,
  env: Env,
): Promise<{ decision: Decision; price: number; basePrice: number }> {
  const catalogue = readCatalogue(env)
  const prices = readPrices(env.OCTET_PRICES)
  const seen = fields.max_latency_ms === undefined ? [] : await observations(env.DB, catalogue.offers)
  const workOf = (decision: Decision) => ({ ...decision, count: fields.n })
  const decision = chooseRoute(routeRequest(fields), catalogue, (decision) => ({
    price: price(workOf(decision), prices),
    latencyMs: latencyMs(seen, decision, megapixelSteps(workOf(decision))),
  }))
  return { decision, price: price(workOf(decision), prices), basePrice: prices.base }
}

/** Only a request with a seed can be identical to another; and an answer that is there already is neither named nor told to a webhook. */
function checkReuse({ seed, webhook }: Generation, name: string | null): void {
  const refuse = (why: string) => new ApiError('invalid_request', `reuse is true, but ${why}.`, { param: 'reuse' })
  if (seed === undefined) throw refuse('seed is missing; without one every request is another')
  if (webhook !== undefined) throw refuse('webhook is given as well; a reused answer comes at once. Use one of them')
  if (name !== null) throw refuse('the job has an id of yours; use POST /v1/jobs')
}

/** Where a request comes from: the worker's address as the caller knows it, and the name that the caller gave the job. */
export type Origin = { origin: string; name?: string | null }

/** The job that a request asks for: routed, seeded and priced. */
export async function specify(
  fields: Generation,
  env: Env,
  credential: Credential,
  { origin, name = null }: Origin,
): Promise<JobSpec> {
  const { account, keyId } = credential
  const { prompt, negative_prompt, n, output_format } = fields
  if (fields.webhook !== undefined) checkAddress(env, origin, fields.webhook, 'webhook')
  if (fields.reuse) checkReuse(fields, name)
  const { decision, price, basePrice } = await chosen(fields, env)
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
    ...previewSteps(fields, decision.steps),
  }
  const oversize = describeOversize(request)
  if (oversize) throw new ApiError('invalid_request', `${capitalize(oversize)}.`, { param: 'output_format' })
  return {
    id: newJobId(),
    name,
    fingerprint: await sha256(JSON.stringify(fields)),
    digest: await digestOf(request),
    ...{ origin, account, keyId, request, decision, price, basePrice },
    token: 'token' in credential ? credential.token.id : null,
    webhook: fields.webhook ?? null,
    created: Date.now(),
    retentionDays: DEFAULT_RETENTION_DAYS,
  }
}

const capitalize = (text: string) => `${text[0]!.toUpperCase()}${text.slice(1)}`

/** A hash of everything that determines the pixels and their file. Previews do not. */
async function digestOf({ preview_steps: _, ...request }: JobSpec['request']): Promise<string> {
  return sha256(JSON.stringify(Object.entries(request).toSorted(([a], [b]) => (a < b ? -1 : 1))))
}

// The fields of an image request, with OpenAI's names where OpenAI has them, and the job specification of a request.
import * as z from 'zod'
import {
  countRunSteps,
  DEFAULT_STRENGTH,
  describeInputs,
  describeOversize,
  IMAGE_FITS,
  type ImageOptions,
  imageOptionsOf,
  LIMITS,
  type LoraChoice,
  OUTPUT_FORMATS,
  REPAINTS,
  ROUTES,
  seed,
  TIERS,
} from '#contract'
import type { JobSpec } from '../accounts/job-spec.ts'
import { type Credential, sha256 } from '../auth/keys.ts'
import type { Catalog } from '../config/catalog.ts'
import { configOf } from '../config.ts'
import type { WebhookEventKind } from '../dialects/definition/public-job.ts'
import { ApiError } from '../http/errors.ts'
import { parseFields } from '../http/validation.ts'
import { newJobId } from '../jobs/job-id.ts'
import { convertToMicrodollars } from '../platform/units.ts'
import type { InputFile } from '../results/inputs.ts'
import { DEFAULT_RETENTION_DAYS } from '../results/retention.ts'
import { resolveModel } from '../routing/alias.ts'
import { type Decision, QUALITIES, type RouteRequest, type WantedSize, type Warning } from '../routing/decision.ts'
import { forecastLatencyMs, selectObservations } from '../routing/forecast.ts'
import { computeBasePrice, countMegapixelSteps, price, type Work } from '../routing/price.ts'
import { chooseRoute } from '../routing/route.ts'
import { checkAddress } from '../webhooks/endpoints/address.ts'
import { describeAdjustments } from './adjustments.ts'
import { chooseControls, controlsOf, describeControls, removeControlImage } from './controls.ts'
import { chooseImageOptions, describeCache, fieldsOfGuidance, imageOptionFields, stepsOf } from './image-options.ts'
import { chooseLoras, loras } from './loras.ts'

type Bounds = { min: number; max: number }
const SIDE = `${LIMITS.side.min} to ${LIMITS.side.max} and divisible by ${LIMITS.side.multipleOf}`

const createTextSchema = (min: number, max: number) =>
  z.string().min(min).max(max).describe(`a text of ${min} to ${max} characters`)

/** A visible character: not a space, a control or format character, a character without a glyph, or the empty braille cell. */
const VISIBLE = /[^\s\p{Cc}\p{Cf}\p{Cs}\p{Default_Ignorable_Code_Point}\u2800]/u
const isBlank = (text: string) => !VISIBLE.test(text)
const createIntegerSchema = ({ min, max }: Bounds) =>
  z.int().min(min).max(max).describe(`an integer from ${min} to ${max}`)
const createNumberSchema = ({ min, max }: Bounds) =>
  z.number().min(min).max(max).describe(`a number from ${min} to ${max}`)
const createChoiceSchema = <const T extends readonly string[]>(values: T) =>
  z.enum(values).describe(`one of ${values.join(', ')}`)
const side = createIntegerSchema(LIMITS.side).multipleOf(LIMITS.side.multipleOf).describe(`an integer, ${SIDE}`)
const size = z
  .string()
  .regex(/^(auto|[1-9]\d{0,3}x[1-9]\d{0,3})$/)
  .describe(`"auto" or "WIDTHxHEIGHT", each side ${SIDE}`)

/** A blank text counts as absent, so that it does not affect the route. */
const blankable = createTextSchema(0, LIMITS.promptCharacters).overwrite((text) => (isBlank(text) ? '' : text))

/** An input image, as long as the body limit permits. */
const file = z
  .string()
  .min(1)
  .describe('base64, a data: URL, an https:// address, or the id of a job with the index of its image')

/** The most previews of an image, and the number for `preview: true`. */
const PREVIEWS = 3

/** `auto` means that route.ts chooses. A field's description completes the sentence "it must be …". */
export const generation = z.strictObject({
  prompt: createTextSchema(1, LIMITS.promptCharacters).refine(
    (prompt) => !isBlank(prompt),
    'prompt has no visible character; say what the image shows.',
  ),
  /** The prompts of CLIP-G and of T5, as in diffusers; they read `prompt` unless given. */
  prompt_2: blankable.optional(),
  prompt_3: blankable.optional(),
  negative_prompt: blankable.default(''),
  model: z.string().max(64).describe('"auto" or a model of GET /v1/models').default('auto'),
  n: createIntegerSchema(LIMITS.count).default(1),
  size: size.default('auto'),
  width: side.optional(),
  height: side.optional(),
  seed: seed
    .describe(`an integer from 0 to ${Number.MAX_SAFE_INTEGER}, or a text of digits from "0" to "${LIMITS.seedMax}"`)
    .optional(),
  steps: createIntegerSchema(LIMITS.steps).optional(),
  guidance_scale: createNumberSchema(LIMITS.guidanceScale).optional(),
  ...imageOptionFields,
  loras: loras.optional(),
  controls: controlsOf(file).optional(),
  /** The image of `controls`, for forms. */
  control_image: file.optional(),
  quality: createChoiceSchema(QUALITIES).default('auto'),
  route: createChoiceSchema(['auto', ...ROUTES]).default('auto'),
  tier: createChoiceSchema(['auto', ...TIERS]).default('auto'),
  response_format: createChoiceSchema(['url', 'b64_json']).default('url'),
  output_format: createChoiceSchema(OUTPUT_FORMATS).default('png'),
  output_compression: createIntegerSchema({ min: 0, max: 100 }).optional(),
  preview: z.boolean().describe('true or false').optional(),
  /** OpenAI's field: the number of previews per image. */
  partial_images: createIntegerSchema({ min: 0, max: PREVIEWS }).optional(),
  /** The action when a waiting caller disconnects. */
  on_disconnect: createChoiceSchema(['continue', 'cancel']).optional(),
  /** The limit for the whole request. */
  max_cost: createNumberSchema({ min: 0, max: 1000 }).describe('a number of US dollars from 0 to 1000').optional(),
  max_latency_ms: createIntegerSchema({ min: 1, max: 3_600_000 }).optional(),
  /** The URL for the webhook event at the job's end. */
  webhook: z.string().describe('an https:// address').optional(),
  /** Whether to return the images of an identical finished job, free of charge. */
  reuse: z.boolean().describe('true or false').optional(),
  /** The input image, and the mask of the part to repaint; see inputs/read-inputs.ts. */
  image: file.optional(),
  mask: file.optional(),
  /** The share of the steps that run on the input image. */
  strength: createNumberSchema(LIMITS.strength).optional(),
  image_fit: createChoiceSchema(IMAGE_FITS).optional(),
  repaint: createChoiceSchema(REPAINTS).optional(),
  mask_feather: createNumberSchema({ min: 0, max: LIMITS.maskFeather }).optional(),
  /** OpenAI's fields, accepted and ignored. */
  user: createTextSchema(0, 256).optional(),
})
export type Generation = z.infer<typeof generation>

/** The same with an input image, whose prompt may be blank. */
const generationFromImage = generation.extend({ prompt: blankable.default('') })

/** The fields of a native request. Errors: invalid_request. */
export function parseGeneration(body: unknown): Generation {
  const hasImage = typeof body === 'object' && body !== null && 'image' in body
  return parseFields(hasImage ? generationFromImage : generation, generation.shape, body)
}

const omitAuto = <T extends string>(value: T | 'auto') => (value === 'auto' ? undefined : value)

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

/** JPEG and WebP quality, OpenAI's `output_compression`: 100 is the best. */
function readOutputQuality({ output_compression, output_format }: Generation): number {
  if (output_compression !== undefined && output_format === 'png') {
    const message = `output_compression is ${output_compression}, but png is lossless; leave it out or choose jpeg or webp.`
    throw new ApiError('invalid_request', message, { param: 'output_compression' })
  }
  return Math.max(1, output_compression ?? 90)
}

/** Steps between previews, excluding the last step; empty if there are none. */
function previewSteps({ preview, partial_images }: Generation, steps: number): { preview_steps?: number } {
  const previews = partial_images ?? (preview ? PREVIEWS : 0)
  return previews === 0 ? {} : { preview_steps: Math.ceil(steps / (previews + 1)) }
}

/** The routing request for route.ts. A wanted size replaces the size of the fields. */
function routeRequest(fields: Generation, catalog: Catalog, wantedSize?: WantedSize): RouteRequest {
  const { negative_prompt, quality, guidance_scale, max_cost, max_latency_ms } = fields
  return {
    // The text for T5 decides whether the request needs T5.
    prompt: fields.prompt_3 || fields.prompt,
    ...{ negativePrompt: negative_prompt, quality, steps: stepsOf(fields), guidanceScale: guidance_scale },
    guidanceFields: fieldsOfGuidance(fields),
    isCached: fields.cache === 'fast',
    additions: (['loras', 'controls'] as const).filter((name) => fields[name]),
    route: omitAuto(fields.route),
    model: fields.model === 'auto' ? undefined : resolveModel(catalog, fields.model),
    isQualityHint: fields.model !== 'auto',
    tier: omitAuto(fields.tier),
    size: wantedSize ? undefined : sizeOf(fields),
    wantedSize,
    maxCost: max_cost === undefined ? undefined : convertToMicrodollars(max_cost),
    maxLatencyMs: max_latency_ms,
  }
}

type PricedRequest = {
  decision: Decision
  options: ImageOptions
  loras: LoraChoice[]
  work: Work
  price: number
  basePrice: number
}

/** The share of the steps that run on the input image; undefined if there is none. A quote does not need the image itself. */
const strengthOf = ({ image, strength }: Generation) => strength ?? (image === undefined ? undefined : DEFAULT_STRENGTH)

/**
 * The routing decision for a request, its adapters and ControlNets, its work, and its price in micro-dollars. Reads forecasts only for max_latency_ms.
 * Errors: the refusals of route.ts, of loras.ts and of controls.ts, and invalid_request.
 */
export async function routeAndPrice(
  fields: Generation,
  env: Env,
  account: string,
  wantedSize?: WantedSize,
): Promise<PricedRequest> {
  const { catalog: whole, prices, gpuDevices } = configOf(env)
  const { loras, catalog: fitting } = fields.loras
    ? chooseLoras(fields.loras, fields, whole, account)
    : { loras: [], catalog: whole }
  const { controls, catalog } = fields.controls
    ? chooseControls(fields.controls, fields, fitting, account)
    : { controls: [], catalog: fitting }
  const seen = fields.max_latency_ms === undefined ? [] : await selectObservations(env.DB, catalog.offers)
  const strength = strengthOf(fields)
  const workOf = (decision: Decision) => ({
    ...decision,
    ...chooseImageOptions(fields, decision),
    ...(strength !== undefined && { strength }),
    ...(loras.length > 0 && { loras }),
    ...(controls.length > 0 && { controls }),
    count: fields.n,
  })
  const decision = chooseRoute(routeRequest(fields, catalog, wantedSize), catalog, (decision) => ({
    price: price(workOf(decision), prices),
    latencyMs: forecastLatencyMs(seen, decision, countMegapixelSteps(workOf(decision), gpuDevices)),
  }))
  const work = workOf(decision)
  const options = imageOptionsOf(work)
  return { decision, options, loras, work, price: price(work, prices), basePrice: computeBasePrice(work, prices) }
}

/** Checks the conditions of `reuse`: a seed, without which no two requests are identical, and no name or webhook, which need a new job. */
function checkReuse({ seed, webhook }: Generation, name: string | null): void {
  const refuse = (why: string) => new ApiError('invalid_request', `reuse is true, but ${why}.`, { param: 'reuse' })
  if (seed === undefined) throw refuse('seed is missing; requests without a seed are never identical')
  if (webhook !== undefined)
    throw refuse('webhook is given as well; a reused result is returned immediately. Use only one of the two')
  if (name !== null) throw refuse('the job has a name; use POST /v1/jobs')
}

/** Additions of a dialect to the fields: the wanted size, warnings about its own adjustments, and the events for the webhook. */
export type Addition = {
  wantedSize?: WantedSize
  warnings?: readonly Warning[]
  webhookEvents?: readonly WebhookEventKind[]
}

/** The worker's address in the request, the caller's name for the job, and the request's dialect. */
type Origin = Addition & {
  origin: string
  name: string | null
  dialect: string | null
  /** Opens the input files, which may cost more than a refusal of the price. */
  openInputs: (price: number) => Promise<InputFile[]>
}

/** Routes, seeds and prices a request, then opens its input files. Returns the job specification and the files. */
export async function createJobSpec(
  fields: Generation,
  env: Env,
  credential: Credential,
  { origin, name, dialect, wantedSize, warnings = [], webhookEvents, openInputs }: Origin,
): Promise<{ spec: JobSpec; inputs: InputFile[] }> {
  const { account, keyId } = credential
  const { prompt, negative_prompt, n, output_format } = fields
  if (fields.webhook !== undefined) checkAddress(env, origin, fields.webhook, 'webhook')
  if (fields.reuse) checkReuse(fields, name)
  const { decision, options, loras, price, basePrice } = await routeAndPrice(fields, env, account, wantedSize)
  const { model, tier, width, height, guidanceScale } = decision
  const inputs = await openInputs(price)
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
    output_quality: readOutputQuality(fields),
    text_convention: 'diffusers' as const,
    ...(fields.prompt_2 && { prompt_2: fields.prompt_2 }),
    ...(fields.prompt_3 && { prompt_3: fields.prompt_3 }),
    ...options,
    ...previewSteps(fields, countRunSteps(decision.steps, options.strength)),
    ...createImageFields(fields, inputs),
    ...(loras.length > 0 && { loras }),
  }
  const contradiction = describeInputs(request)
  if (contradiction) throw new ApiError('invalid_request', `${contradiction}.`, { param: 'image' })
  const oversize = describeOversize(request)
  if (oversize) throw new ApiError('invalid_request', `${capitalize(oversize)}.`, { param: 'output_format' })
  const created = Date.now()
  const spec = {
    id: newJobId(),
    name,
    fingerprint: await fingerprintOf(fields, inputs, wantedSize),
    digest: await digestOf(request),
    adjustments: [
      ...[...warnings, ...describeAdjustments(fields, decision, wantedSize)],
      ...[...describeCache(request), ...describeControls(request)],
    ],
    ...{ origin, account, keyId, dialect, request, decision, price, basePrice },
    token: 'token' in credential ? credential.token.id : null,
    webhook: fields.webhook ?? null,
    ...(webhookEvents && { webhookEvents }),
    created,
    ...(fields.max_latency_ms && { deadline: created + fields.max_latency_ms }),
    retentionDays: DEFAULT_RETENTION_DAYS,
  } satisfies JobSpec
  return { spec, inputs }
}

/** The request's fields about its input image. */
function createImageFields(fields: Generation, inputs: readonly InputFile[]): Partial<JobSpec['request']> {
  const { image_fit, repaint, mask_feather } = fields
  return {
    ...(inputs.length > 0 && { inputs: inputs.map(({ source: _, ...input }) => input) }),
    ...(image_fit && { image_fit }),
    ...(repaint && { repaint }),
    ...(mask_feather !== undefined && { mask_feather }),
  }
}

/** A hash of the fields, with the contents of files in place of their addresses. */
function fingerprintOf(fields: Generation, inputs: readonly InputFile[], wantedSize?: WantedSize): Promise<string> {
  const files = Object.fromEntries(inputs.map(({ name, sha256 }) => [name, sha256]))
  return sha256(JSON.stringify({ ...removeControlImage(fields), ...files, ...(wantedSize && { wantedSize }) }))
}

const capitalize = (text: string) => `${text[0]!.toUpperCase()}${text.slice(1)}`

/** A hash of the fields that determine the pixels and their file: all but those of previews. */
async function digestOf({ preview_steps: _, ...request }: JobSpec['request']): Promise<string> {
  return sha256(JSON.stringify(Object.entries(request).toSorted(([a], [b]) => (a < b ? -1 : 1))))
}

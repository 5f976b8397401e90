// The protocol between the edge and the GPU function. Both sides parse with these schemas; this file imports only zod.
import * as z from 'zod'

export const PROTOCOL_VERSION = 1

/**
 * The tiers: the precision of the largest weights, whether packages have T5 (the text encoder for long prompts and for text in images),
 * and the default price in micro-dollars per megapixel-step.
 */
export const TIER_TABLE = {
  fp8: { precision: 'fp8', t5: true, price: 300 },
  'fp8-lite': { precision: 'fp8', t5: false, price: 240 },
  fp16: { precision: 'fp16', t5: true, price: 480 },
  fp32: { precision: 'fp32', t5: true, price: 900 },
} as const
export type Tier = keyof typeof TIER_TABLE
export const TIERS = Object.keys(TIER_TABLE) as [Tier, ...Tier[]]
export const hasT5 = (tier: Tier): boolean => TIER_TABLE[tier].t5
export const ROUTES = ['turbo', 'full'] as const
export const OUTPUT_FORMATS = ['png', 'jpeg', 'webp'] as const
/** Media type of each output format. */
export const CONTENT_TYPES = { png: 'image/png', jpeg: 'image/jpeg', webp: 'image/webp' } as const
export const TEXT_CONVENTIONS = ['diffusers'] as const
/** Update rules of a step, with ComfyUI's names; pipeline/schedulers/. The default is the package's. */
export const SAMPLERS = ['euler', 'dpmpp_2m', 'heun', 'lcm'] as const
/** Spacings of the noise levels, with ComfyUI's names. `normal` is that of diffusers, and the default. */
export const SCHEDULES = ['normal', 'simple', 'sgm_uniform', 'beta'] as const
export type Route = (typeof ROUTES)[number]

/** Limits that both sides enforce. Sizes are pixels; `side` must also be divisible by 16. */
export const LIMITS = {
  promptCharacters: 10_000,
  /** The range of Medium's position table, which is the largest; each model has its own limit. */
  side: { min: 16, max: 6144, multipleOf: 16 },
  steps: { min: 1, max: 200 },
  guidanceScale: { min: 0, max: 30 },
  shift: { min: 0.01, max: 100 },
  /** With more steps, the schedule `beta` would have equal noise levels. */
  betaSteps: 100,
  /** Blocks of a denoiser. */
  layers: 64,
  /** Tokens of T5. */
  maxSequenceLength: { min: 77, max: 512 },
  count: { min: 1, max: 8 },
  seedMax: '18446744073709551615',
  requestBytes: 256 * 1024,
  eventLineBytes: 64 * 1024,
  imageBytes: 64 * 1024 * 1024,
  previewBytes: 256 * 1024,
  /** Maximum size of each input file. */
  inputBytes: 16 * 1024 * 1024,
  /** Maximum number of pixels of an input image: that of the largest result, so that every result can be an input. */
  inputPixels: 6144 * 6144,
  /** Below the minimum, a job would run no step. */
  strength: { min: 0.01, max: 1 },
  maskFeather: 256,
  heartbeatMs: 5_000,
  /** Maximum number of adapters of a job, and maximum magnitude of an adapter's strength. */
  loras: { max: 8, scale: 4 },
} as const

/** A model's name, which becomes part of paths and settings. */
export const modelName = z.string().regex(/^[a-z0-9][a-z0-9-]{0,63}$/)
export const jobId = z.string().regex(/^[A-Za-z0-9_-]{1,64}$/)
/** A SHA-256 in lower-case hex. Every schema of a digest uses this one, because digests become parts of paths and keys. */
export const sha256Hex = z.string().regex(/^[0-9a-f]{64}$/, 'must be a SHA-256 in lower-case hex')
const SEEDS = BigInt(LIMITS.seedMax) + 1n
const isSeed = (text: string) => /^\d{1,20}$/.test(text) && BigInt(text) < SEEDS
/** JSON numbers are exact up to 2^53 - 1: a larger seed is a decimal string, a smaller one a number. */
const canonicalSeed = (value: bigint): number | string =>
  value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : String(value)
/** A seed as in torch, an unsigned integer of 64 bits: a number, or a decimal string. */
export const seed = z
  .union([z.int().min(0), z.string().refine(isSeed, { abort: true })])
  .transform((given) => canonicalSeed(BigInt(given)))
export type Seed = z.infer<typeof seed>

/** The seed of image number `image`: `seed` + `image`, modulo 2^64. */
export const seedOf = (seed: Seed, image: number): Seed => canonicalSeed((BigInt(seed) + BigInt(image)) % SEEDS)

/** An adapter of a job: its ID and its strength. */
export const loraChoice = z.strictObject({
  id: modelName,
  scale: z.number().min(-LIMITS.loras.scale).max(LIMITS.loras.scale),
})
export type LoraChoice = z.infer<typeof loraChoice>

/** Input images of a job, in the order of their bytes. */
export const INPUT_NAMES = ['image', 'mask'] as const
/** The ways to fit an input image of another shape to width × height. */
export const IMAGE_FITS = ['crop', 'pad', 'stretch'] as const
/** The parts of a mask that are repainted. Without a mask, `transparent` takes those of the input image. */
export const REPAINTS = ['white', 'black', 'transparent'] as const
/** As in diffusers' StableDiffusion3Img2ImgPipeline. */
export const DEFAULT_STRENGTH = 0.6

/** The number of steps that an input image of this strength skips. diffusers `StableDiffusion3Img2ImgPipeline.get_timesteps` */
export const firstStepOf = (steps: number, strength: number): number =>
  Math.trunc(Math.max(steps - Math.min(steps * strength, steps), 0))

/** The number of steps that a job runs for each image. `strength` is that of its input image, undefined without one. */
export const stepsRun = (steps: number, strength: number | undefined): number =>
  strength === undefined ? steps : steps - firstStepOf(steps, strength)
/** Falling noise levels above 0, before the shift, as in diffusers. */
export const sigmas = z
  .array(z.number().gt(0).max(1))
  .min(LIMITS.steps.min)
  .max(LIMITS.steps.max)
  .refine((levels) => levels.every((level, i) => i === 0 || level < levels[i - 1]!), 'sigmas must fall at every step.')

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

/** Optional fields of a request that change its image. Files and receipts state those that are given. */
const imageOptions = z.strictObject({
  /** Tokens of T5, as in diffusers; absent: 256. */
  max_sequence_length: z.int().min(LIMITS.maxSequenceLength.min).max(LIMITS.maxSequenceLength.max).optional(),
  sampler: z.enum(SAMPLERS).optional(),
  noise_schedule: z.enum(SCHEDULES).optional(),
  /** Custom noise levels in place of `noise_schedule`, one for each step. */
  sigmas: sigmas.optional(),
  /** The shift of the noise levels; absent: the package's. */
  shift: z.number().min(LIMITS.shift.min).max(LIMITS.shift.max).optional(),
  guidance_interval: guidanceInterval.optional(),
  skip_layer_guidance: skipLayerGuidance.optional(),
  /** Whether `(word:1.3)` is a weight; tokenizer/prompt-weights.ts. */
  prompt_weights: z.literal(true).optional(),
  /** The share of the steps that run on the input image; absent: `DEFAULT_STRENGTH`. */
  strength: z.number().min(LIMITS.strength.min).max(LIMITS.strength.max).optional(),
})
export const imageOptionFields = imageOptions.shape
export type ImageOptions = z.infer<typeof imageOptions>

/** The image options present in a request. */
export function imageOptionsOf(request: ImageOptions): ImageOptions {
  const given = Object.entries(request).filter(([name, value]) => name in imageOptionFields && value !== undefined)
  return Object.fromEntries(given)
}

const side = z.int().min(LIMITS.side.min).max(LIMITS.side.max).multipleOf(LIMITS.side.multipleOf)
const prompt = z.string().max(LIMITS.promptCharacters)

/** The order of jobs on the GPU: interactive ones first, and accounts in turn. */
export const jobSchedule = z.strictObject({
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

/** The signature of each kind of file, as text, which begins at byte `offset`. */
const SIGNATURES: readonly { kind: string; bytes: string; offset?: number }[] = [
  { kind: 'PNG', bytes: '\x89PNG\r\n\x1a\n' },
  { kind: 'JPEG', bytes: '\xff\xd8\xff' },
  { kind: 'WebP', bytes: 'WEBP', offset: 8 },
  { kind: 'GIF', bytes: 'GIF87a' },
  { kind: 'GIF', bytes: 'GIF89a' },
  ...[8, 16, 20, 24, 28].flatMap((offset) => ['avif', 'avis'].map((bytes) => ({ kind: 'AVIF', bytes, offset }))),
  { kind: 'HEIC or a video', bytes: 'ftyp', offset: 4 },
  { kind: 'TIFF or a raw photograph', bytes: 'II*\0' },
  { kind: 'TIFF or a raw photograph', bytes: 'MM\0*' },
  { kind: 'BMP', bytes: 'BM' },
  { kind: 'PDF', bytes: '%PDF' },
  { kind: 'JPEG XL', bytes: '\xff\x0a' },
  { kind: 'JPEG XL', bytes: 'JXL ', offset: 4 },
  { kind: 'PSD', bytes: '8BPS' },
]
/** The kinds of input images. */
export const INPUT_KINDS = ['PNG', 'JPEG', 'WebP', 'GIF', 'AVIF']
/** The bytes of a file that decide its kind. */
const SIGNATURE_BYTES = 64

/** Error message if the first bytes of a file are not those of an image that is supported, else null. */
export function describeKind(file: Uint8Array): string | null {
  const start = String.fromCharCode(...file.subarray(0, SIGNATURE_BYTES))
  const found = SIGNATURES.find(({ bytes, offset = 0 }) => start.startsWith(bytes, offset))
  // A byte order mark and spaces may precede markup.
  const isMarkup = /^\W{0,32}<[\w!?]/.test(start)
  const kind = found?.kind ?? (isMarkup ? 'SVG, XML or HTML' : 'of an unknown type')
  return INPUT_KINDS.includes(kind) ? null : `the file is ${kind}; allowed: ${INPUT_KINDS.join(', ')}`
}

/** The fields that need an input image. */
export const IMAGE_FIELDS = ['strength', 'image_fit', 'repaint', 'mask_feather'] as const

/** Error message if the fields about input images contradict each other, else null. */
export function describeInputs(request: Pick<JobRequest, 'inputs' | (typeof IMAGE_FIELDS)[number]>): string | null {
  const names = (request.inputs ?? []).map(({ name }) => name)
  const field = IMAGE_FIELDS.find((name) => request[name] !== undefined)
  if (names.length === 0 && field) return `${field} was given without an image: give both or neither`
  if (names.length > 0 && names[0] !== 'image') return 'the first of inputs must be the image'
  if (new Set(names).size < names.length) return `inputs has ${names.join(' and ')}: each may be given once`
  if (request.mask_feather && names.length === 1 && request.repaint !== 'transparent')
    return 'mask_feather was given without a mask: give a mask, or repaint "transparent" for that of the image'
  return null
}

/** What determines the evaluations of the denoiser for one image. */
export type Sampling = Pick<
  JobRequest,
  'steps' | 'guidance_scale' | 'sampler' | 'guidance_interval' | 'skip_layer_guidance' | 'strength'
>

/** The step of each run of the denoiser: `heun` runs it at both ends of each step but the last. An input image skips the first steps. */
export function stepsOfRuns({
  steps,
  sampler,
  strength = 1,
}: Pick<Sampling, 'steps' | 'sampler' | 'strength'>): number[] {
  const runs = sampler === 'heun' ? 2 * steps - 1 : steps
  const first = firstStepOf(steps, strength)
  return Array.from({ length: runs }, (_, run) => (sampler === 'heun' ? run >> 1 : run)).filter((step) => step >= first)
}

/** Whether guidance runs in a step, counted from 0. */
export function isGuided({ steps, guidance_scale, guidance_interval }: Sampling, step: number): boolean {
  const { start, stop } = guidance_interval ?? { start: 0, stop: 1 }
  return guidance_scale > 1 && step >= Math.trunc(start * steps) && step < Math.trunc(stop * steps)
}

/** Whether guidance runs in any step. */
export const hasGuidance = (sampling: Sampling): boolean =>
  stepsOfRuns({ steps: sampling.steps }).some((step) => isGuided(sampling, step))

/** Whether skip-layer guidance runs in a step, counted from 0. It needs guidance. */
export function skipsLayers(sampling: Sampling, step: number): boolean {
  const { steps, skip_layer_guidance: skip } = sampling
  return skip !== undefined && step > steps * skip.start && step < steps * skip.stop && isGuided(sampling, step)
}

/** Evaluations of the denoiser for one image: a run has one for the prompt, and one each for guidance and skip-layer guidance. */
export function countEvaluations(sampling: Sampling): number {
  const ofStep = (step: number) => 1 + Number(isGuided(sampling, step)) + Number(skipsLayers(sampling, step))
  return stepsOfRuns(sampling).reduce((sum, step) => sum + ofStep(step), 0)
}
/** Body of `PUT /models/{model}`, which opens a model ahead of its jobs. */
export const modelRequest = z.strictObject({ tier: z.enum(TIERS) })

type ImageShape = Pick<JobRequest, 'width' | 'height' | 'output_format'>

/** zlib stores incompressible data in blocks of this size, with five bytes of overhead each. */
const STORED_BLOCK = { bytes: 65_535, overhead: 5 }
/** Signature, chunk headers, and the XMP packet with both prompts at maximum escaped length. */
const PNG_OVERHEAD = 256 * 1024

/**
 * Maximum file size of an image with these dimensions and format. PNG is lossless, so noise does not compress at all. JPEG and WebP
 * never exceed `LIMITS.imageBytes`: the GPU function lowers the quality until the file fits.
 */
export function largestImageBytes({ width, height, output_format }: ImageShape): number {
  if (output_format !== 'png') return LIMITS.imageBytes
  const raw = (3 * width + 1) * height
  return raw + STORED_BLOCK.overhead * Math.ceil(raw / STORED_BLOCK.bytes) + PNG_OVERHEAD
}

/** Error message for the caller when an image of this shape is too large to deliver, else null. Both sides check before any work. */
export function describeOversize(shape: ImageShape): string | null {
  const bytes = largestImageBytes(shape)
  if (bytes <= LIMITS.imageBytes) return null
  const { width, height, output_format: format } = shape
  const [needed, allowed] = [Math.ceil((10 * bytes) / MIB) / 10, LIMITS.imageBytes / MIB]
  return (
    `an image of ${width}x${height} as ${format} may have up to ${needed} MiB; the limit is ${allowed} MiB: ` +
    'use output_format jpeg or webp, or a smaller size'
  )
}

const MIB = 1024 * 1024

/** Failures of accepted jobs. `invalid_request` is an error of the request; the others are faults of the service. */
export const JOB_ERROR_CODES = ['invalid_request', 'model_not_available', 'out_of_memory', 'internal'] as const
export const WARNING_CODES = [
  'prompt_truncated',
  'prompt_words_unknown',
  'prompt_weights_ignored',
  'image_adjusted',
] as const

/** Characters that a terminal would execute or not show: controls, formats such as bidirectional marks, separators, lone surrogates. */
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu

/**
 * Escapes untrusted text for errors, logs and terminals: invisible characters become `\uXXXX`. Within JSON, the escaped text is valid and
 * has the same value.
 */
export const escapeText = (text: string): string =>
  text.replace(INVISIBLE, (character) =>
    character.replace(/[\s\S]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`),
  )

const seconds = z.number().min(0)
/** Durations of a job's phases in seconds. `queue` includes interruptions by other jobs; `load` is 0 if the package was open. */
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
  /** The job's model is loaded and its first step follows. Jobs of a higher priority may still interrupt it. Run-time limits start here. */
  z.strictObject({
    type: z.literal('started'),
    model: z.string(),
    tier: z.enum(TIERS),
    package: sha256Hex,
    device: z.string(),
    /** The job's adapters with the digests of their packages. */
    loras: z.array(loraChoice.extend({ package: sha256Hex })).optional(),
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

/** Body of `GET /healthz`: 200 when `ready`, else 503. */
export const health = z.strictObject({
  status: z.enum(['loading', 'ready', 'draining', 'failed']),
  protocol: z.literal(PROTOCOL_VERSION),
  running: z.int().min(0),
  queued: z.int().min(0),
  models: z.array(z.strictObject({ model: z.string(), tier: z.enum(TIERS), package: sha256Hex })),
})
export type Health = z.infer<typeof health>

/** Body of every refusal (4xx, 5xx) of the GPU function: RFC 9457. 429 and 503 mean that the job was not accepted. */
export const refusal = z.object({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  code: z.string(),
})

/** Claims of the edge's EdDSA token on `PUT /jobs/{id}` and `DELETE /jobs/{id}`; `exp` is at most five minutes ahead. A token serves one request. */
export const GPU_TOKEN = {
  issuer: 'octet-edge',
  audience: 'octet-gpu',
  algorithm: 'EdDSA',
  /** Header of the token if the host of the GPU function reserves `authorization`. */
  header: 'octet-authorization',
  maxAgeSeconds: 300,
} as const
export const gpuTokenClaims = z.object({
  /** job id */ sub: jobId,
  /** `${job}.${attempt}.${uuid}`: the random UUID makes every token unique. */
  jti: z.string().regex(/^[A-Za-z0-9_-]{1,64}\.[1-9]\d{0,8}\.[0-9a-f-]{36}$/),
  /** SHA-256 of the request body, base64url */
  body: z.string().regex(/^[A-Za-z0-9_-]{43}$/),
})

/** The `jti` of a new token. */
export const gpuTokenId = (job: string, attempt: number): string => `${job}.${attempt}.${crypto.randomUUID()}`

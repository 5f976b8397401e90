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
export type Route = (typeof ROUTES)[number]

/** Limits that both sides enforce. Sizes are pixels; `side` must also be divisible by 16. */
export const LIMITS = {
  promptCharacters: 10_000,
  /** The range of Medium's position table, which is the largest; each model has its own limit. */
  side: { min: 16, max: 6144, multipleOf: 16 },
  steps: { min: 1, max: 200 },
  guidanceScale: { min: 0, max: 30 },
  /** Tokens of T5. */
  maxSequenceLength: { min: 77, max: 512 },
  count: { min: 1, max: 8 },
  seedMax: '18446744073709551615',
  requestBytes: 256 * 1024,
  eventLineBytes: 64 * 1024,
  imageBytes: 64 * 1024 * 1024,
  previewBytes: 256 * 1024,
  heartbeatMs: 5_000,
} as const

/** A model's name, which becomes part of paths and settings. */
export const modelName = z.string().regex(/^[a-z0-9][a-z0-9-]{0,63}$/)
export const jobId = z.string().regex(/^[A-Za-z0-9_-]{1,64}$/)
/** A SHA-256 in lower-case hex. Digests become parts of paths and keys, so every schema with a digest uses this. */
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

const side = z.int().min(LIMITS.side.min).max(LIMITS.side.max).multipleOf(LIMITS.side.multipleOf)
const prompt = z.string().max(LIMITS.promptCharacters)

/** The order of jobs on the GPU: interactive ones first, and accounts in turn. */
export const jobSchedule = z.strictObject({
  /** An opaque name of the account. */
  tenant: z.string().regex(/^[A-Za-z0-9_-]{1,64}$/),
  /** The account's share relative to others. */
  weight: z.number().min(0.01).max(100),
  /** Somebody waits for the images, which take few steps. */
  interactive: z.boolean(),
  /** The longest wished time from acceptance to end; the job is refused if it cannot be met. */
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
  /** Tokens of T5, as in diffusers; absent: 256. */
  max_sequence_length: z.int().min(LIMITS.maxSequenceLength.min).max(LIMITS.maxSequenceLength.max).optional(),
  /** Interval of `preview` events in steps; no previews by default. */
  preview_steps: z.int().min(1).max(LIMITS.steps.max).optional(),
  /** `false` omits the prompts from the files' metadata. */
  prompt_metadata: z.literal(false).optional(),
  /** How the job shares the GPU. It does not identify the job, and a retry may change it. Absent: a tenant of its own name. */
  schedule: jobSchedule.optional(),
})
export type JobRequest = z.infer<typeof jobRequest>

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
export const WARNING_CODES = ['prompt_truncated', 'prompt_words_unknown'] as const

/** Characters that a terminal would execute or not show: controls, formats such as bidirectional marks, separators, lone surrogates. */
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu

/** Text from outside for errors, logs and terminals: each invisible character as `\uXXXX`, as in JSON, which stays valid and equal. */
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

// The parameters that several image APIs have in common, under Octet's names.
import * as z from 'zod'
import { LIMITS, OUTPUT_FORMATS, seed } from '#contract'
import { ApiError } from '../../http/errors.ts'
import { formatValue, parseFields } from '../../http/validation.ts'
import type { WantedSize, Warning } from '../../routing/decision.ts'
import { parseAdditionId, readControls } from './control-input.ts'
import type { Translation } from './dialect.ts'
import { FILE_NAMES, readFiles } from './input-files.ts'
import { readSampling } from './sampling-names.ts'

type Bounds = { min: number; max: number }
const createIntegerSchema = ({ min, max }: Bounds) =>
  z.int().min(min).max(max).describe(`an integer from ${min} to ${max}`)
const createTextSchema = (min: number) =>
  z.string().min(min).max(LIMITS.promptCharacters).describe(`a text of ${min} to ${LIMITS.promptCharacters} characters`)
const steps = createIntegerSchema(LIMITS.steps).optional()
const guidance = z
  .number()
  .min(LIMITS.guidanceScale.min)
  .max(LIMITS.guidanceScale.max)
  .describe(`a number from ${LIMITS.guidanceScale.min} to ${LIMITS.guidanceScale.max}`)
  .optional()
const count = createIntegerSchema(LIMITS.count).optional()
const name = z.string().max(64).describe('a name of at most 64 characters').optional()
const side = z.int().min(1).describe('an integer of pixels').optional()

/** The widest ratio of two sides. */
const WIDEST = 8

function parseRatio(given: string): number | null {
  const [, wide, high] = /^(\d{1,4}):(\d{1,4})$/.exec(given) ?? []
  const ratio = Number(wide) / Number(high)
  return ratio >= 1 / WIDEST && ratio <= WIDEST ? ratio : null
}

/** fal's names of sizes. */
const NAMED_SIZES = {
  square_hd: { width: 1024, height: 1024 },
  square: { width: 512, height: 512 },
  portrait_4_3: { width: 768, height: 1024 },
  portrait_16_9: { width: 576, height: 1024 },
  landscape_4_3: { width: 1024, height: 768 },
  landscape_16_9: { width: 1024, height: 576 },
} as const
const SIZE_NAMES = Object.keys(NAMED_SIZES) as [keyof typeof NAMED_SIZES]

const FORMATS = [...OUTPUT_FORMATS, 'jpg'] as const

const strength = z
  .number()
  .min(-LIMITS.loras.scale)
  .max(LIMITS.loras.scale)
  .describe(`a number from ${-LIMITS.loras.scale} to ${LIMITS.loras.scale}`)
  .optional()
const adapterName = z.string().max(500).describe('the ID of an adapter').optional()
const adapter = z
  .object({
    ...{ path: adapterName, id: adapterName, name: adapterName, model: adapterName },
    ...{ scale: strength, weight: strength },
  })
  .refine(
    (given) => [given.path, given.id, given.name, given.model].some((name) => name !== undefined),
    'loras has an entry without path; it must name an adapter of GET /v1/models.',
  )
const ADAPTERS = `a list of at most ${LIMITS.loras.max} objects with a path and, optionally, a scale from ${-LIMITS.loras.scale} to ${LIMITS.loras.scale}`

const input = z.object({
  prompt: createTextSchema(1),
  negative_prompt: createTextSchema(0).optional(),
  ...{ steps, step: steps, num_steps: steps, num_inference_steps: steps },
  ...{ guidance, guidance_scale: guidance, cfg: guidance, cfg_scale: guidance },
  ...{ n: count, num_images: count, num_outputs: count },
  ...{ width: side, height: side },
  size: z
    .string()
    .regex(/^(auto|[1-9]\d{0,4}[x*][1-9]\d{0,4})$/)
    .describe('"auto" or "WIDTHxHEIGHT"')
    .optional(),
  image_size: z
    .union([z.enum(SIZE_NAMES), z.object({ width: z.int().min(1), height: z.int().min(1) })])
    .describe(`one of ${SIZE_NAMES.join(', ')}, or an object with width and height`)
    .optional(),
  aspect_ratio: z
    .string()
    .refine(
      (given) => ['auto', 'custom'].includes(given) || parseRatio(given) !== null,
      `aspect_ratio must be a ratio such as 16:9, at most ${WIDEST}:1.`,
    )
    .optional(),
  /** -1 is a random seed. */
  seed: z
    .union([z.literal(-1), seed])
    .describe(`an integer from -1 to ${Number.MAX_SAFE_INTEGER}, or a text of digits up to "${LIMITS.seedMax}"`)
    .optional(),
  output_format: z
    .enum(FORMATS)
    .describe(`one of ${FORMATS.join(', ')}`)
    .optional(),
  output_quality: createIntegerSchema({ min: 0, max: 100 }).optional(),
  max_cost: z.number().min(0).describe('a number of US dollars').optional(),
  /** fal: `path`; Together and others: `id`, `name` or `model`; the strength is `scale` or `weight`. */
  loras: z.array(adapter).max(LIMITS.loras.max).describe(ADAPTERS).optional(),
  /** Replicate. */
  ...{ lora: adapterName, lora_weights: adapterName, hf_lora: adapterName, extra_lora: adapterName },
  extra_lora_weights: adapterName,
  ...{ lora_scale: strength, extra_lora_scale: strength },
  ...{ sampler: name, sampler_name: name, sampler_index: name, scheduler: name, schedule: name, noise_schedule: name },
})
type Input = z.infer<typeof input>
/** With an input image, the prompt may be empty. */
const inputWithImage = input.extend({ prompt: createTextSchema(0).default('') })

const shape = input.shape

/** Parameters for guidance by an image that are not supported. */
const GUIDING = ['image_prompt'] as const
/** Native fields, which are validated afterward. */
const NATIVE: readonly string[] = [
  ...['sigmas', 'shift', 'max_sequence_length', 'guidance_interval', 'skip_layer_guidance'],
  ...['prompt_weights', 'cache'],
]

/** Parameters without an effect on the image in Octet. */
const SILENT: ReadonlySet<string> = new Set([
  ...['disable_safety_checker', 'enable_safety_checker', 'safety_tolerance', 'apply_watermark', 'sync_mode'],
  ...['go_fast', 'acceleration', 'megapixels', 'replicate_weights'],
])

function checkGuiding(given: Record<string, unknown>): void {
  const param = GUIDING.find((name) => given[name] !== undefined && given[name] !== null)
  if (param === undefined) return
  const message = `${param} is given, but the models of this deployment take no image prompts; leave it out.`
  throw new ApiError('invalid_request', message, { param })
}

function wantedSizeOf({ size, width, height, image_size, aspect_ratio }: Input): WantedSize | null {
  if (size && size !== 'auto') {
    const [wide, high] = size.split(/[x*]/).map(Number)
    return { width: wide!, height: high! }
  }
  if (width !== undefined && height !== undefined) return { width, height }
  if (image_size) return typeof image_size === 'string' ? NAMED_SIZES[image_size] : image_size
  const aspect = aspect_ratio === undefined ? null : parseRatio(aspect_ratio)
  return aspect === null ? null : { aspect }
}

function formatOf({ output_format, output_quality }: Input): Record<string, unknown> {
  const format = output_format === 'jpg' ? 'jpeg' : output_format
  const isLossy = format === 'jpeg' || format === 'webp'
  return {
    ...(format && { output_format: format }),
    ...(isLossy && output_quality !== undefined && { output_compression: output_quality }),
  }
}

/** Adapters of synonymous fields, without duplicates. */
const toAdapters = (names: readonly (string | undefined)[], scale: number | undefined) =>
  [...new Set(names)].map((name) => ({ name, scale }))

/** The adapters by their IDs: the last part of a path or an address, without the ending of a file. */
function lorasOf(parsed: Input): { id: string; scale?: number }[] | undefined {
  const { lora, lora_weights, hf_lora, lora_scale, extra_lora, extra_lora_weights, extra_lora_scale } = parsed
  const named = [
    ...(parsed.loras ?? []).map(({ path, id, name, model, scale, weight }) => ({
      ...{ name: id || path || name || model, scale: scale ?? weight },
    })),
    ...toAdapters([lora, lora_weights, hf_lora], lora_scale),
    ...toAdapters([extra_lora, extra_lora_weights], extra_lora_scale),
  ]
  const chosen = named.flatMap(({ name, scale }) =>
    name ? [{ id: parseAdditionId(name), ...(scale !== undefined && { scale }) }] : [],
  )
  return chosen.length === 0 ? undefined : chosen
}

const dropUndefined = (fields: Record<string, unknown>) =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))

/**
 * The native fields of a client's parameters, with a warning for each one without an effect. `strength` is the API's default. Errors:
 * invalid_request, with the name that the client used.
 */
export function readImageInput(
  given: Record<string, unknown>,
  strength?: number,
): Pick<Translation, 'fields' | 'names' | 'wantedSize'> & { warnings: Warning[] } {
  checkGuiding(given)
  const files = readFiles(given, strength)
  const control = readControls(given)
  const values = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null))
  const parsed = parseFields(files.fields.image === undefined ? input : inputWithImage, shape, values)
  const { sampler, sampler_name, sampler_index, scheduler, schedule, noise_schedule } = parsed
  const warnIgnored = (name: string) => createIgnoredWarning(name, values[name])
  const sampling = readSampling(
    { sampler, sampler_name, sampler_index, scheduler, schedule, noise_schedule },
    warnIgnored,
  )
  const fields = dropUndefined({
    ...Object.fromEntries(NATIVE.map((name) => [name, values[name]])),
    ...sampling.fields,
    prompt: parsed.prompt,
    negative_prompt: parsed.negative_prompt,
    steps: parsed.num_inference_steps ?? parsed.steps ?? parsed.num_steps ?? parsed.step,
    guidance_scale: parsed.guidance_scale ?? parsed.guidance ?? parsed.cfg_scale ?? parsed.cfg,
    n: parsed.num_images ?? parsed.num_outputs ?? parsed.n,
    seed: parsed.seed === -1 ? undefined : parsed.seed,
    max_cost: parsed.max_cost,
    loras: lorasOf(parsed),
    ...formatOf(parsed),
    ...files.fields,
    ...control.fields,
  })
  const isControl = (name: string) => name in control.fields || Object.values(control.names).includes(name)
  const isUsed = (name: string) =>
    name in shape || NATIVE.includes(name) || FILE_NAMES.includes(name) || isControl(name)
  const unused = Object.keys(values).filter((name) => !isUsed(name) && !SILENT.has(name))
  const wantedSize = wantedSizeOf(parsed)
  const warnings = [...files.warnings, ...sampling.warnings, ...unused.slice(0, MAX_WARNINGS).map(warnIgnored)]
  return { fields, ...(wantedSize && { wantedSize }), warnings, names: { ...files.names, ...control.names } }
}

const MAX_WARNINGS = 8

/** The warning for a parameter without an effect. */
export const createIgnoredWarning = (name: string, value: unknown): Warning => ({
  code: 'parameter_ignored',
  message: `${formatValue(name).slice(1, -1)} is ${formatValue(value)}, which has no effect here.`,
})

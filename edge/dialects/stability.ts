// Stability AI's image API: POST /v2beta/stable-image/generate/sd3. platform.stability.ai/docs/api-reference
import * as z from 'zod'
import { LIMITS, OUTPUT_FORMATS } from '#contract'
import { ApiError, type Problem } from '../http/errors.ts'
import { formatValue, parseFields } from '../http/validation.ts'
import type { Dialect, DialectRequest, RenderedJob, Reply, Translation } from './definition/dialect.ts'
import { readFiles } from './definition/input-files.ts'
import { createWarningHeader } from './definition/warning-header.ts'

/** About one megapixel for each aspect ratio, in the sizes for which Stable Diffusion 3 was trained. */
const SIZES = {
  '21:9': { width: 1536, height: 640 },
  '16:9': { width: 1344, height: 768 },
  '3:2': { width: 1216, height: 832 },
  '5:4': { width: 1088, height: 896 },
  '1:1': { width: 1024, height: 1024 },
  '4:5': { width: 896, height: 1088 },
  '2:3': { width: 832, height: 1216 },
  '9:16': { width: 768, height: 1344 },
  '9:21': { width: 640, height: 1536 },
} as const
const RATIOS = Object.keys(SIZES) as (keyof typeof SIZES)[]
const MAX_SEED = 4_294_967_294
const [MIN_SCALE, MAX_SCALE] = [1, 10]

const createTextSchema = (min: number) =>
  z.string().min(min).max(LIMITS.promptCharacters).describe(`a text of ${min} to ${LIMITS.promptCharacters} characters`)
const oneOf = <const T extends readonly [string, ...string[]]>(values: T) =>
  z.enum(values).describe(`one of ${values.join(', ')}`)

/** The parts of the form. Others, such as the empty file that some clients send, have no effect. */
const form = z.object({
  prompt: createTextSchema(1),
  negative_prompt: createTextSchema(0).optional(),
  mode: oneOf(['text-to-image', 'image-to-image']).optional(),
  image: z
    .union([z.string(), z.instanceof(File)])
    .describe('a file')
    .optional(),
  strength: z.coerce.number().min(0).max(1).describe('a number from 0 to 1').optional(),
  aspect_ratio: oneOf(RATIOS as [keyof typeof SIZES]).optional(),
  seed: z.coerce.number().int().min(0).max(MAX_SEED).describe(`a whole number from 0 to ${MAX_SEED}`).optional(),
  output_format: oneOf(OUTPUT_FORMATS).optional(),
  model: z.string().max(64).describe('a model of GET /v1/models').optional(),
  cfg_scale: z.coerce
    .number()
    .min(MIN_SCALE)
    .max(MAX_SCALE)
    .describe(`a number from ${MIN_SCALE} to ${MAX_SCALE}`)
    .optional(),
})

/** Whether the reply is JSON; otherwise it is the image. Errors: invalid_request. */
function acceptsJson({ headers }: DialectRequest): boolean {
  const accept = headers.get('accept') ?? '*/*'
  if (/\bapplication\/json\b/i.test(accept)) return true
  if (/\bimage\/|\*\/\*/i.test(accept)) return false
  const message = `accept is ${formatValue(accept)}; it must be image/* or application/json.`
  throw new ApiError('invalid_request', message, { param: 'accept' })
}

type Image = Pick<z.infer<typeof form>, 'image' | 'strength'>

/** The fields of `mode: image-to-image`, which requires both. Errors: invalid_request. */
function createImageFields(mode: z.infer<typeof form>['mode'], { image, strength }: Image) {
  const isImage = mode === 'image-to-image'
  for (const [param, value] of Object.entries({ image, strength })) {
    if (isImage === (value !== undefined)) continue
    const why = isImage ? 'is missing' : 'is given without mode'
    throw new ApiError('invalid_request', `${param} ${why}; mode "image-to-image" takes image and strength.`, { param })
  }
  return readFiles(isImage ? { image, strength } : {}).fields
}

function parse(request: DialectRequest): Translation {
  const isJson = acceptsJson(request)
  const { aspect_ratio, cfg_scale, seed, mode, image, strength, ...same } = parseFields(form, form.shape, request.body)
  const fields = {
    ...same,
    ...(cfg_scale !== undefined && { guidance_scale: cfg_scale }),
    // Seed 0 is Stability's request for a random seed.
    ...(seed && { seed }),
    ...(isJson && { response_format: 'b64_json' }),
    ...createImageFields(mode, { image, strength }),
  }
  return { fields, wait: 'end', ...(aspect_ratio && { wantedSize: SIZES[aspect_ratio] }) }
}

/** Headers that warn of parameters without an effect. */
function createWarningHeaders({ warnings }: RenderedJob['job'], { body }: DialectRequest): Record<string, string> {
  const style = { message: 'style_preset had no effect; describe the style in the prompt.' }
  return createWarningHeader(body.style_preset === undefined ? warnings : [...warnings, style])
}

function render({ job, files }: RenderedJob, request: DialectRequest): Reply {
  const [{ seed, content_type }, file] = [job.images[0]!, files[0]!]
  const headers = { 'finish-reason': 'SUCCESS', seed: String(seed), ...createWarningHeaders(job, request) }
  if (!('b64_json' in file)) return { headers, image: 0 }
  const type = `application/json; type=${content_type}`
  return {
    headers: { ...headers, 'content-type': type },
    json: { image: file.b64_json, finish_reason: 'SUCCESS', seed },
  }
}

/** Stability's names of errors by status. Other errors have their native code. */
const NAMES: Readonly<Record<number, string>> = {
  400: 'bad_request',
  401: 'unauthorized',
  402: 'payment_required',
  403: 'permission_denied',
  404: 'not_found',
  413: 'payload_too_large',
  429: 'rate_limit_exceeded',
  500: 'internal_error',
}

const createError = ({ request_id, status, detail, errors, error: { code } }: Problem) => ({
  json: { id: request_id, name: NAMES[status] ?? code, errors: errors?.map(({ message }) => message) ?? [detail] },
})

/**
 * Text to image and image to image, as bytes or as JSON. The size has the requested aspect ratio; the deployment's models replace
 * Stability's.
 */
export const stability: Dialect = {
  name: 'stability',
  routes: [
    {
      method: 'POST',
      path: '/v2beta/stable-image/generate/sd3',
      action: 'submit',
      accepts: 'form',
      parse,
      render,
    },
  ],
  cors: { origins: '*', exposedHeaders: ['finish-reason', 'seed', 'x-octet-warning'] },
  error: createError,
}

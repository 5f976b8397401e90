// An OpenAI image request as its clients send it, translated to native fields. Neutral parameters are accepted, unsupported parameters that
// change the image are rejected, and every adjustment causes a warning.
import { LIMITS } from '#contract'
import { ApiError } from '../../http/errors.ts'
import { formatValue } from '../../http/validation.ts'
import type { Warning } from '../../routing/decision.ts'
import type { DialectRequest, Translation } from '../definition/dialect.ts'
import { FILE_NAMES, type InputFields, readFiles } from '../definition/input-files.ts'
import { readSize, SIZE_FIELDS } from './size.ts'

type Fields = Record<string, unknown>

/** Names of other APIs for native fields. */
const SYNONYMS: Readonly<Record<string, string>> = {
  ...{ cfg: 'guidance_scale', cfg_scale: 'guidance_scale', cfgScale: 'guidance_scale' },
  ...{ guidance: 'guidance_scale', guidanceScale: 'guidance_scale' },
  ...{ num_inference_steps: 'steps', numInferenceSteps: 'steps', step: 'steps' },
  ...{ num_images: 'n', num_images_per_prompt: 'n', num_outputs: 'n', batch_size: 'n' },
  ...{ negativePrompt: 'negative_prompt', responseFormat: 'response_format', outputFormat: 'output_format' },
}

/** Inputs that would change the image. */
const UNSUPPORTED = ['lora', 'controlnet', 'ip_adapter', 'ip_adapters']
const NATIVE_NAMES: Readonly<Record<string, string>> = { lora: 'loras', controlnet: 'controls' }

/** OpenAI's limits, which exceed the native ones. */
export const MAX_PROMPT = 32_000
export const MAX_IMAGES = 10

const isEmpty = (value: unknown) => value === '' || (Array.isArray(value) && value.length === 0)
const createIgnoredWarning = (field: string, message: string): Warning => ({ code: `${field}_ignored`, message })

/** The error of a field with the allowed values. */
function refuse(param: string, value: unknown, allowed: string): never {
  throw new ApiError('invalid_request', `${param} is ${formatValue(value)}; it must be ${allowed}.`, { param })
}

/** The fields by native names, and the sent name of each renamed field. A native name takes precedence over its synonyms. */
function renameFields(body: Fields): { fields: Fields; names: Record<string, string> } {
  const [fields, names]: [Fields, Record<string, string>] = [{}, {}]
  for (const [sent, value] of Object.entries(body)) {
    if (sent !== 'prompt' && isEmpty(value)) continue
    const native = Object.hasOwn(SYNONYMS, sent) ? SYNONYMS[sent]! : sent
    const isTaken = native !== sent && (Object.hasOwn(fields, native) || Object.hasOwn(body, native))
    // An unused field keeps its name for the warning about unknown fields.
    Object.defineProperty(fields, isTaken ? sent : native, {
      value,
      enumerable: true,
      writable: true,
      configurable: true,
    })
    if (!isTaken && native !== sent) names[native] = sent
  }
  return { fields, names }
}

/** Refuses inputs that the API does not have. Errors: not_offered. */
function refuseUnsupported(fields: Fields): void {
  const param = UNSUPPORTED.find((name) => Object.hasOwn(fields, name))
  if (param === undefined) return
  const native = NATIVE_NAMES[param]
  const message = `${param} is not offered; leave it out${native ? `, or use ${native}` : ''}.`
  throw new ApiError('not_offered', message, { param, headers: { 'x-should-retry': 'false' } })
}

/** One adjustment: the changed fields (undefined removes a field) and its warning; null if there is nothing to adjust. */
type Adjustment = (fields: Fields, nameOf: (native: string) => string) => { change: Fields; warning?: Warning } | null

const BACKGROUNDS: readonly unknown[] = ['auto', 'opaque']
const QUALITIES: Readonly<Record<string, string>> = { hd: 'high', xhigh: 'high', max: 'high' }

const cutPrompt: Adjustment = ({ prompt }) => {
  if (typeof prompt !== 'string' || prompt.length <= LIMITS.promptCharacters) return null
  if (prompt.length > MAX_PROMPT) refuse('prompt', prompt, `a text of 1 to ${MAX_PROMPT} characters`)
  // Half of a surrogate pair is not a character.
  const cut = prompt.slice(0, LIMITS.promptCharacters).replace(/[\ud800-\udbff]$/, '')
  const message = `prompt has ${prompt.length} characters; the model receives the first ${cut.length}.`
  return { change: { prompt: cut }, warning: { code: 'prompt_shortened', message } }
}

const limitImages: Adjustment = ({ n }, nameOf) => {
  const { max } = LIMITS.count
  if (typeof n !== 'number' || !Number.isInteger(n) || n <= max || n > MAX_IMAGES) return null
  const message = `${nameOf('n')} is ${n}; a request has at most ${max} images.`
  return { change: { n: max }, warning: { code: 'n_reduced', message } }
}

const readBackground: Adjustment = ({ background }) => {
  if (background === undefined) return null
  if (!BACKGROUNDS.includes(background)) refuse('background', background, 'auto or opaque')
  return {
    change: { background: undefined },
    warning: createIgnoredWarning('background', 'background had no effect: images are opaque.'),
  }
}

const dropModeration: Adjustment = ({ moderation }) =>
  moderation === undefined
    ? null
    : { change: { moderation: undefined }, warning: createIgnoredWarning('moderation', 'moderation had no effect.') }

const dropStyle: Adjustment = ({ style }) =>
  style === undefined
    ? null
    : {
        change: { style: undefined },
        warning: createIgnoredWarning('style', 'style had no effect; describe the style in the prompt.'),
      }

const mapQuality: Adjustment = ({ quality }) => {
  const mapped = typeof quality === 'string' && Object.hasOwn(QUALITIES, quality) ? QUALITIES[quality] : undefined
  if (mapped === undefined) return null
  const message = `quality "${quality}" is served as "${mapped}".`
  return { change: { quality: mapped }, warning: { code: 'quality_adjusted', message } }
}

const dropCompression: Adjustment = ({ output_compression, output_format = 'png' }) => {
  if (output_compression === undefined || output_format !== 'png') return null
  const message = 'output_compression had no effect: png is lossless.'
  return { change: { output_compression: undefined }, warning: createIgnoredWarning('output_compression', message) }
}

const mapFormat: Adjustment = ({ response_format }, nameOf) => {
  if (response_format !== 'base64') return null
  const message = `${nameOf('response_format')} "base64" is served as "b64_json".`
  return { change: { response_format: 'b64_json' }, warning: { code: 'response_format_adjusted', message } }
}

const drawSeed: Adjustment = ({ seed }) => (seed === -1 ? { change: { seed: undefined } } : null)

const ADJUSTMENTS: readonly Adjustment[] = [
  ...[cutPrompt, limitImages, readBackground, dropModeration, dropStyle, mapQuality, dropCompression, mapFormat],
  drawSeed,
]

/** Models whose clients read `b64_json` without a request for it. */
const BASE64_MODEL = /^(chatgpt|gpt)-image/

const readFlag = (fields: Fields, name: string): boolean => {
  const { [name]: flag = false } = fields
  return typeof flag === 'boolean' ? flag : refuse(name, flag, 'true or false')
}

const removeFields = (fields: Fields, names: readonly string[]): Fields =>
  Object.fromEntries(Object.entries(fields).filter(([name, value]) => value !== undefined && !names.includes(name)))

/** The native request of an OpenAI image request. Errors: invalid_request, not_offered. */
export function parse({ body }: DialectRequest): Translation {
  const files = readFiles(body)
  const { fields: renamed, names } = renameFields(removeFields(body, FILE_NAMES))
  const given: Fields = { ...renamed, ...files.fields }
  refuseUnsupported(given)
  const nameOf = (native: string) => names[native] ?? native
  const made = ADJUSTMENTS.flatMap((adjust) => adjust(given, nameOf) ?? [])
  const adjusted: Fields = Object.assign({}, given, ...made.map(({ change }) => change))
  const isStream = readFlag(adjusted, 'stream')
  const found = readSize(adjusted)
  // A strict size stays a native field, whose check refuses a size without an offer.
  const size = readFlag(adjusted, 'strict') && found?.wanted && 'width' in found.wanted ? null : found
  const isBase64Model = typeof given.model === 'string' && BASE64_MODEL.test(given.model)
  return {
    fields: removeFields(adjusted, ['stream', 'strict', ...(size ? SIZE_FIELDS : [])]),
    wait: isStream ? 'stream' : 'end',
    ...(size?.wanted && { wantedSize: size.wanted }),
    warnings: [
      ...files.warnings,
      ...createStrengthWarnings(body, files.fields),
      ...made.flatMap(({ warning }) => warning ?? []),
    ],
    names: { ...names, ...files.names },
    ignoresUnknown: true,
    ...((isBase64Model || given.response_format === undefined) && { files: 'both' as const }),
  }
}

const createStrengthWarnings = ({ strength }: Fields, { image }: InputFields): Warning[] =>
  strength === undefined || image !== undefined
    ? []
    : [createIgnoredWarning('strength', 'strength had no effect without an image.')]

/** An edit repaints the transparent part of the mask or, without a mask, of the image. */
const EDIT = { repaint: 'transparent' } as const

/** Parses an edit. With a mask, the default strength is 1. Errors: as parse, and invalid_request without an image. */
export function parseEdit(request: DialectRequest): Translation {
  const { image, mask, strength } = readFiles(request.body).fields
  if (image === undefined)
    throw new ApiError('invalid_request', 'image is missing; it must be an image file.', { param: 'image' })
  const own = { ...EDIT, ...(mask !== undefined && strength === undefined && { strength: 1 }) }
  return parse({ ...request, body: { ...own, ...request.body } })
}

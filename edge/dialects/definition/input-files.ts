// The input image and mask of a request, under the names of several image APIs.
import { LIMITS } from '#contract'
import { ApiError } from '../../http/errors.ts'
import { formatValue } from '../../http/validation.ts'
import type { Warning } from '../../routing/decision.ts'

type Fields = Readonly<Record<string, unknown>>
type FileValue = string | File

const IMAGE_NAMES = [
  ...['image', 'image[]', 'images', 'images[]', 'image_url', 'image_urls', 'imageUrl', 'imageUrls'],
  ...['init_image', 'init_images', 'input_image', 'input_images'],
]
const MASK_NAMES = ['mask', 'mask[]', 'mask_image', 'mask_url', 'mask_image_url']
const STRENGTH_NAMES = ['strength', 'prompt_strength', 'denoising_strength', 'image_strength']
/** The names that `readFiles` reads. */
export const FILE_NAMES: readonly string[] = [...IMAGE_NAMES, ...MASK_NAMES, ...STRENGTH_NAMES]

export type Files = {
  fields: InputFields
  warnings: Warning[]
  /** The sent names of the fields. */
  names: Record<string, string>
}
export type InputFields = { image?: FileValue; mask?: FileValue; strength?: number }

const refuse = (param: string, why: string) => new ApiError('invalid_request', `${param} ${why}.`, { param })
const isGiven = (value: unknown) =>
  value !== undefined && value !== null && value !== '' && !(Array.isArray(value) && value.length === 0)

/** A text, a file, an object with an address, or a list of these, of which the first is taken. */
const fileOf = (name: string, value: unknown): { file: FileValue; others: number } =>
  Array.isArray(value)
    ? { file: requireSingleFile(name, value[0]), others: value.length - 1 }
    : { file: requireSingleFile(name, value), others: 0 }

function requireSingleFile(name: string, value: unknown): FileValue {
  if (typeof value === 'string' || value instanceof File) return value
  const { url, image_url } = (value ?? {}) as Record<string, unknown>
  const address = url ?? image_url
  if (typeof address === 'string') return address
  throw refuse(name, `is ${formatValue(value)}; it must be an image as base64, a data: URL or an https:// address`)
}

/**
 * The native fields of an input image, and a warning about images after the first. `strength` is the API's default. Strengths below the
 * native minimum become the minimum. Errors: invalid_request.
 */
export function readFiles(given: Fields, strength?: number): Files {
  const find = (names: readonly string[]) => names.find((name) => Object.hasOwn(given, name) && isGiven(given[name]))
  const [imageName, maskName, strengthName] = [IMAGE_NAMES, MASK_NAMES, STRENGTH_NAMES].map(find)
  if (imageName === undefined && maskName !== undefined)
    throw refuse(maskName, 'is given without an image; give both or neither')
  if (imageName === undefined) return { fields: {}, warnings: [], names: {} }
  const { file: image, others } = fileOf(imageName, given[imageName])
  const warnings: Warning[] =
    others > 0
      ? [{ code: 'images_ignored', message: `${imageName} has ${others + 1} images; only the first was used.` }]
      : []
  const wanted = strengthName === undefined ? strength : readStrength(strengthName, given[strengthName])
  return {
    fields: {
      image,
      ...(maskName !== undefined && { mask: fileOf(maskName, given[maskName]).file }),
      ...(wanted !== undefined && { strength: wanted }),
    },
    warnings,
    names: {
      image: imageName,
      ...(maskName !== undefined && { mask: maskName }),
      ...(strengthName !== undefined && { strength: strengthName }),
    },
  }
}

function readStrength(name: string, value: unknown): number {
  const strength = typeof value === 'string' && value.trim() !== '' ? Number(value) : value
  if (typeof strength === 'number' && strength >= 0 && strength <= LIMITS.strength.max)
    return Math.max(LIMITS.strength.min, strength)
  throw refuse(name, `is ${formatValue(value)}; it must be a number from 0 to ${LIMITS.strength.max}`)
}

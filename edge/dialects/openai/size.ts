// Reads the size of an OpenAI image request: a width and a height, or an aspect ratio.
import { ApiError } from '../../http/errors.ts'
import { formatValue } from '../../http/validation.ts'
import type { WantedSize } from '../../routing/decision.ts'

const MAX_SIDE = 100_000
const ALLOWED = '"auto" or "WIDTHxHEIGHT", such as "1024x1024"'

function refuse(param: string, value: unknown, allowed: string): never {
  throw new ApiError('invalid_request', `${param} is ${formatValue(value)}; it must be ${allowed}.`, { param })
}

const isSide = (side: unknown): side is number =>
  typeof side === 'number' && Number.isInteger(side) && side >= 1 && side <= MAX_SIDE

function readText(size: unknown): WantedSize {
  const [, width, separator, height] = /^\s*([1-9]\d{0,4})\s*([x×*:])\s*([1-9]\d{0,4})\s*$/i.exec(String(size)) ?? []
  if (typeof size !== 'string' || width === undefined) return refuse('size', size, ALLOWED)
  const [wide, high] = [Number(width), Number(height)]
  return separator === ':' ? { aspect: wide / high } : { width: wide, height: high }
}

function readAspect(param: string, value: unknown): WantedSize {
  const [, width, height] = /^\s*([1-9]\d{0,4})\s*[:/x]\s*([1-9]\d{0,4})\s*$/.exec(String(value)) ?? []
  if (typeof value !== 'string' || width === undefined) return refuse(param, value, 'WIDTH:HEIGHT, such as "16:9"')
  return { aspect: Number(width) / Number(height) }
}

const SHAPES = ['aspect_ratio', 'aspectRatio'] as const
/** The fields that `readSize` reads. */
export const SIZE_FIELDS: readonly string[] = ['size', 'width', 'height', ...SHAPES]

/**
 * The wanted size; null if the native fields describe it, whose validation then reports errors. `size` takes precedence over the aspect
 * ratio.
 */
export function readSize(fields: Record<string, unknown>): { wanted?: WantedSize } | null {
  const { size = 'auto', width, height } = fields
  if (size !== 'auto' && (width !== undefined || height !== undefined)) return null
  if (size !== 'auto') return { wanted: readText(size) }
  if (width !== undefined || height !== undefined)
    return isSide(width) && isSide(height) ? { wanted: { width, height } } : null
  const shape = SHAPES.find((name) => fields[name] !== undefined && fields[name] !== 'auto')
  return shape ? { wanted: readAspect(shape, fields[shape]) } : {}
}

import { LIMITS } from './limits.ts'
import type { JobRequest } from './requests.ts'

type ImageShape = Pick<JobRequest, 'width' | 'height' | 'output_format'>

/** zlib stores incompressible data in blocks of this size, with five bytes of overhead each. */
const STORED_BLOCK = { bytes: 65_535, overhead: 5 }
/** Signature, chunk headers, and the XMP packet with both prompts at maximum escaped length. */
const PNG_OVERHEAD = 256 * 1024

/**
 * Maximum file size of an image with these dimensions and format. PNG is lossless, so noise does not compress at all. JPEG and WebP
 * never exceed `LIMITS.imageBytes`: the GPU function lowers the quality until the file fits.
 */
export function computeLargestImageBytes({ width, height, output_format }: ImageShape): number {
  if (output_format !== 'png') return LIMITS.imageBytes
  const raw = (3 * width + 1) * height
  return raw + STORED_BLOCK.overhead * Math.ceil(raw / STORED_BLOCK.bytes) + PNG_OVERHEAD
}

/** Error message for the caller when an image of this shape is too large to deliver, else null. Both sides check before any work. */
export function describeOversize(shape: ImageShape): string | null {
  const bytes = computeLargestImageBytes(shape)
  if (bytes <= LIMITS.imageBytes) return null
  const { width, height, output_format: format } = shape
  const [needed, allowed] = [Math.ceil((10 * bytes) / MIB) / 10, LIMITS.imageBytes / MIB]
  return (
    `an image of ${width}x${height} as ${format} may have up to ${needed} MiB; the limit is ${allowed} MiB: ` +
    'use output_format jpeg or webp, or a smaller size'
  )
}

const MIB = 1024 * 1024

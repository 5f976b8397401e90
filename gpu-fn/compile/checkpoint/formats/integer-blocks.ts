// Block-quantized integers of 8 or 4 bits, in the layout of onnxruntime's `MatMulNBits` without zero points:
// value = (code − 2^(bits − 1)) × scale. 4-bit codes are packed in pairs, low nibble first.
import { findLargestMagnitude, INFINITY_BITS } from './magnitude.ts'

export type IntegerBits = 8 | 4

/** Maximum block size by bit width. Smaller blocks have smaller errors and more scales. */
const LARGEST = { 8: 128, 4: 32 } as const satisfies Record<IntegerBits, number>
/** Minimum block size of `MatMulNBits`. */
const SMALLEST = 16

/** Block size for rows of `columns` values: the largest supported power of two that divides `columns`; null if there is none. */
export function blockOf(columns: number, bits: IntegerBits): number | null {
  for (let block: number = LARGEST[bits]; block >= SMALLEST; block /= 2) if (columns % block === 0) return block
  return null
}

/**
 * Quantizes blocks of `block` values of `src` to codes (`out`) and one scale per block (`scales`), rounded to float16. The value of largest
 * magnitude has code 0; its negation would exceed the largest code by one and is clamped. A block of zeros has scale 1. Returns false, with
 * undefined codes, if a value is NaN or infinite or if a scale exceeds the range of float16.
 */
export function quantizeBlocks(
  src: Float32Array,
  bits: IntegerBits,
  block: number,
  out: Uint8Array,
  scales: Float32Array,
): boolean {
  const middle = 2 ** (bits - 1)
  const max = 2 * middle - 1
  for (let index = 0; index < scales.length; index++) {
    const start = index * block
    const scale = Math.f16round(findExtreme(src, start, start + block) / -middle) || 1
    scales[index] = scale
    // Truncation after adding 0.5 rounds to nearest, because the sum is positive.
    const [factor, bias] = [1 / scale, middle + 0.5]
    if (bits === 8) for (let i = start; i < start + block; i++) out[i] = clamp(src[i]! * factor + bias, max)
    else
      for (let i = start; i < start + block; i += 2)
        out[i / 2] = clamp(src[i]! * factor + bias, max) | (clamp(src[i + 1]! * factor + bias, max) << 4)
  }
  return findLargestMagnitude(src) < INFINITY_BITS && findLargestMagnitude(scales) < INFINITY_BITS
}

const clamp = (value: number, max: number) => (value < 0 ? 0 : value > max ? max : value | 0)

/** Value of largest magnitude in [start, end). */
function findExtreme(values: Float32Array, start: number, end: number): number {
  let [min, greatest] = [0, 0]
  for (let i = start; i < end; i++) {
    const value = values[i]!
    if (value < min) min = value
    else if (value > greatest) greatest = value
  }
  return -min > greatest ? min : greatest
}

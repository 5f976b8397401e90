// Integers of 8 or 4 bits with one scale for each block of a row's values, as onnxruntime's `MatMulNBits` reads them without zero points:
// value = (code − 2^(bits − 1)) × scale. Codes of 4 bits are stored in pairs, the earlier one in the lower half of a byte.
import { INFINITY_BITS, largestMagnitude } from './magnitude.ts'

export type IntegerBits = 8 | 4

/** Values per block of each width, at most. A smaller block has a smaller error and more scales. */
const LARGEST = { 8: 128, 4: 32 } as const satisfies Record<IntegerBits, number>
/** The smallest block that `MatMulNBits` supports. */
const SMALLEST = 16

/** Values per block in rows of `columns` values: the largest power of two that divides a row; null if there is none. */
export function blockOf(columns: number, bits: IntegerBits): number | null {
  for (let block: number = LARGEST[bits]; block >= SMALLEST; block /= 2) if (columns % block === 0) return block
  return null
}

/**
 * Quantizes `src`, blocks of `block` values, to codes `out` and `scales`, one for each block, which are float16 values. The value of the
 * largest magnitude has the code 0, and its opposite would have one code more than there are. A block of zeros has the scale 1. Returns false,
 * with undefined codes, if a value is NaN or infinite, or a scale exceeds float16.
 */
export function quantizeBlocks(
  src: Float32Array,
  bits: IntegerBits,
  block: number,
  out: Uint8Array,
  scales: Float32Array,
): boolean {
  const middle = 2 ** (bits - 1)
  const most = 2 * middle - 1
  for (let index = 0; index < scales.length; index++) {
    const start = index * block
    const scale = Math.f16round(extremeIn(src, start, start + block) / -middle) || 1
    scales[index] = scale
    // The conversion to an integer truncates, which rounds the positive sum to the nearest.
    const [factor, bias] = [1 / scale, middle + 0.5]
    if (bits === 8) for (let i = start; i < start + block; i++) out[i] = clamp(src[i]! * factor + bias, most)
    else
      for (let i = start; i < start + block; i += 2)
        out[i / 2] = clamp(src[i]! * factor + bias, most) | (clamp(src[i + 1]! * factor + bias, most) << 4)
  }
  return largestMagnitude(src) < INFINITY_BITS && largestMagnitude(scales) < INFINITY_BITS
}

const clamp = (value: number, most: number) => (value < 0 ? 0 : value > most ? most : value | 0)

/** The value of the largest magnitude. */
function extremeIn(values: Float32Array, start: number, end: number): number {
  let [least, greatest] = [0, 0]
  for (let i = start; i < end; i++) {
    const value = values[i]!
    if (value < least) least = value
    else if (value > greatest) greatest = value
  }
  return -least > greatest ? least : greatest
}

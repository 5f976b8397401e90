// FP8 E4M3 as in `float8_e4m3fn` (arXiv 2209.05433): 4 exponent bits of bias 7, 3 mantissa bits, no infinity, NaN at 0x7f and 0xff.
// Weights are quantized with one scale per row: value = code × scale.
import { bitsOf, findLargest, INFINITY_BITS } from './magnitude.ts'

/** The largest magnitude of E4M3. */
export const FP8_MAX = 448

const NAN_CODE = 0x7f

/** The value of each of the 256 codes. */
export const decodeTable: Float32Array = Float32Array.from({ length: 256 }, (_, code) => decode(code))

/** The value of each code of E5M2, the upper half of a float16. */
export const decodeTableE5M2: Float32Array = Float32Array.from(
  new Float16Array(Uint16Array.from({ length: 256 }, (_, code) => code << 8).buffer),
)

function decode(code: number): number {
  if ((code & 0x7f) === NAN_CODE) return Number.NaN
  const sign = code & 0x80 ? -1 : 1
  const exponent = (code >> 3) & 0xf
  const fraction = code & 7
  return exponent === 0 ? sign * fraction * 2 ** -9 : sign * (8 + fraction) * 2 ** (exponent - 10)
}

/** The code nearest to a float32 `value`, ties to even, magnitudes above 448 and infinity saturated to 448, NaN to 0x7f. */
export function encode(value: number): number {
  if (Number.isNaN(value)) return NAN_CODE
  const sign = value < 0 || Object.is(value, -0) ? 0x80 : 0
  const magnitude = Math.min(Math.abs(value), FP8_MAX)
  const exponent = Math.max(Math.floor(Math.log2(magnitude)), -6)
  const steps = magnitude * 2 ** (3 - exponent)
  const below = Math.floor(steps)
  const rounded = steps - below > 0.5 || (steps - below === 0.5 && below % 2 === 1) ? below + 1 : below
  return sign | (rounded + (exponent + 6) * 8)
}

/**
 * Quantizes `src` [rows, columns] to codes `out` [rows, columns] and float32 `scales` [rows].
 * A scale is max|w| ÷ 448 in float32, or 1 where that is zero. Returns false, with undefined codes, if a weight is NaN or infinite.
 */
export function quantizeRows(
  src: Float32Array,
  rows: number,
  columns: number,
  out: Uint8Array,
  scales: Float32Array,
): boolean {
  const bits = bitsOf(src)
  const quotients = new Float32Array(columns)
  const quotientBits = bitsOf(quotients)
  let largest = 0
  for (let row = 0; row < rows; row++) {
    const start = row * columns
    const maximum = findLargest(bits, start, start + columns)
    if (maximum > largest) largest = maximum
    const scale = Math.fround(floatOfBits(maximum) / FP8_MAX) || 1
    scales[row] = scale
    for (let i = 0; i < columns; i++) quotients[i] = src[start + i]! / scale
    encodeAll(quotientBits, columns, out, start)
  }
  return largest < INFINITY_BITS
}

function encodeAll(bits: Int32Array, length: number, out: Uint8Array, start: number): void {
  for (let i = 0; i < length; i++) {
    const value = bits[i]!
    const sticky = ((value & 0x7ffff) + 0x7ffff) >>> 19
    out[start + i] = encodeTable[((value >>> 19) << 1) | sticky]!
  }
}

const scratch = new Float32Array(1)
const scratchBits = new Int32Array(scratch.buffer)

function floatOfBits(bits: number): number {
  scratchBits[0] = bits
  return scratch[0]!
}

/**
 * The code by sign, exponent and four mantissa bits of a float32, and a sticky bit for the rest: E4M3 has three mantissa bits, so these 14
 * bits determine the rounding. 16 KB, which fits the first-level cache.
 */
const encodeTable = Uint8Array.from({ length: 1 << 14 }, (_, index) =>
  encode(floatOfBits(((index >>> 1) << 19) | (index & 1))),
)

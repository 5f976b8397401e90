// 4-bit FP8: 4-bit integers with one scale byte per group of 32 values and one float32 scale per row, 4.25 bits per value plus row scales.
// Decoding yields E4M3 codes: value = E4M3(integer × group scale) × row scale.
//
// Integers are -8 to 7, stored as integer + 8 in pairs, low nibble first, as in onnxruntime's `MatMulNBits`. A scale byte has a sign, three
// exponent and four mantissa bits: ±(16 + mantissa) × 2^(exponent - 6), magnitudes 0.25 to 62. Integer × group scale is exact in float32.
import { decodeTable, encode, FP8_MAX } from './fp8.ts'
import { bitsOf, findLargest } from './magnitude.ts'

/** Values per group. */
export const GROUP = 32
/** Packed bytes per group. */
export const GROUP_BYTES = GROUP / 2

const MIDDLE = 8
const INTEGERS = 16
const NEGATIVE = 0x80
const MANTISSA_BITS = 4
/** Biased float32 exponent of the smallest scale. */
const MIN_EXPONENT = 125

/** Scale by byte. */
export const groupScaleTable: Float32Array = Float32Array.from({ length: 256 }, (_, byte) => {
  const magnitude = (16 + (byte & 15)) * 2 ** (((byte >> MANTISSA_BITS) & 7) - 6)
  return byte & NEGATIVE ? -magnitude : magnitude
})

/** E4M3 codes, indexed by scale byte × 16 + stored integer. */
export const unpackTable: Uint8Array = Uint8Array.from({ length: 256 * INTEGERS }, (_, index) =>
  encode(((index % INTEGERS) - MIDDLE) * groupScaleTable[index >> 4]!),
)

/** `unpackTable`, decoded to float32. */
const values = Float32Array.from(unpackTable, (code) => decodeTable[code]!)

/** Decodes groups of 4-bit integers to E4M3 codes. */
export function unpackCodes(packed: Uint8Array, groupScales: Uint8Array): Uint8Array {
  const codes = new Uint8Array(2 * packed.length)
  for (const [group, byte] of groupScales.entries()) {
    for (let i = group * GROUP_BYTES; i < (group + 1) * GROUP_BYTES; i++) {
      codes[2 * i] = unpackTable[byte * INTEGERS + (packed[i]! & 15)]!
      codes[2 * i + 1] = unpackTable[byte * INTEGERS + (packed[i]! >> 4)]!
    }
  }
  return codes
}

/** Packed rows: integers [rows, columns ÷ 2], scale bytes [rows, columns ÷ 32], and row scales [rows]. */
export type PackedRows = {
  readonly packed: Uint8Array
  readonly groupScales: Uint8Array
  readonly scales: Float32Array
}

/**
 * Quantizes `src` [rows, columns] to `out`. Values must be finite, and columns a multiple of 32. Row scales are those of FP8. Each group
 * scale minimizes the squared error among candidates derived from the group's largest magnitude.
 */
export function quantizePacked(src: Float32Array, rows: number, columns: number, out: PackedRows): void {
  const bits = bitsOf(src)
  const row = new Float32Array(columns)
  const groups = columns / GROUP
  for (let r = 0; r < rows; r++) {
    const start = r * columns
    const scale = Math.fround(floatOfBits(findLargest(bits, start, start + columns)) / FP8_MAX) || 1
    out.scales[r] = scale
    for (let i = 0; i < columns; i++) row[i] = src[start + i]! / scale
    for (let g = 0; g < groups; g++) {
      const group = r * groups + g
      const byte = chooseScale(row, g * GROUP)
      out.groupScales[group] = byte
      pack(row, g * GROUP, byte, out.packed, group * GROUP_BYTES)
    }
  }
}

/** Candidate group scales, in mantissa steps from the scale that maps the extreme value to -8. Smaller scales clip that value. */
const STEPS = { first: -2, last: 1 }

/** Scale byte with the minimum squared error for the group that starts at `start`. */
function chooseScale(row: Float32Array, start: number): number {
  let [lowest, highest] = [0, 0]
  for (let i = start; i < start + GROUP; i++) {
    const value = row[i]!
    if (value < lowest) lowest = value
    else if (value > highest) highest = value
  }
  const sign = highest > -lowest ? NEGATIVE : 0
  const nearest = encodeMagnitude(Math.max(highest, -lowest) / MIDDLE)
  let best = nearest | sign
  let min = Number.POSITIVE_INFINITY
  for (let step = STEPS.first; step <= STEPS.last; step++) {
    const magnitude = nearest + step
    if (magnitude < 0 || magnitude >= NEGATIVE) continue
    const error = errorOf(row, start, magnitude | sign)
    if (error >= min) continue
    min = error
    best = magnitude | sign
  }
  return best
}

/** Byte of the positive scale nearest to `magnitude`, clamped to the range of scales. */
function encodeMagnitude(magnitude: number): number {
  scratch[0] = magnitude
  // The byte consists of the exponent and the top four mantissa bits of the rounded float32.
  const shift = 23 - MANTISSA_BITS
  const byte = ((scratchBits[0]! + (1 << (shift - 1))) >>> shift) - (MIN_EXPONENT << MANTISSA_BITS)
  return Math.max(0, Math.min(NEGATIVE - 1, byte))
}

/** Squared error of a group for a given scale. */
function errorOf(row: Float32Array, start: number, byte: number): number {
  const factor = 1 / groupScaleTable[byte]!
  const table = byte * INTEGERS
  let error = 0
  for (let i = start; i < start + GROUP; i++) {
    const value = row[i]!
    const difference = value - values[table + integerOf(value * factor)]!
    error += difference * difference
  }
  return error
}

/** Stored integer nearest to a quotient. Adding 0.5 and truncating rounds to nearest, because the sum is positive. */
function integerOf(quotient: number): number {
  const sum = quotient + (MIDDLE + 0.5)
  return sum < 0 ? 0 : sum > INTEGERS - 1 ? INTEGERS - 1 : sum | 0
}

function pack(row: Float32Array, start: number, byte: number, packed: Uint8Array, at: number): void {
  const factor = 1 / groupScaleTable[byte]!
  for (let i = 0; i < GROUP_BYTES; i++) {
    const [low, high] = [row[start + 2 * i]!, row[start + 2 * i + 1]!]
    packed[at + i] = integerOf(low * factor) | (integerOf(high * factor) << 4)
  }
}

const scratch = new Float32Array(1)
const scratchBits = new Int32Array(scratch.buffer)

function floatOfBits(bits: number): number {
  scratchBits[0] = bits
  return scratch[0]!
}

// Bulk conversions between the number formats of checkpoints and packages, for little-endian blocks of a few MB.
import { decodeTable, decodeTableE5M2 } from './fp8.ts'
import { decodeBlocks, GGML_BLOCKS, type GgmlType } from './ggml-blocks.ts'
import { bitsOf, findLargestMagnitude, INFINITY_BITS } from './magnitude.ts'

/** The element types that the compiler supports: values and bytes of the smallest unit. */
export const BLOCKS = {
  ...{ F64: [1, 8], F32: [1, 4], F16: [1, 2], BF16: [1, 2], F8_E4M3: [1, 1], F8_E5M2: [1, 1] },
  ...GGML_BLOCKS,
} as const satisfies Record<string, readonly [values: number, bytes: number]>
export type ParameterDtype = keyof typeof BLOCKS

/** The scale of stored numbers: one for the tensor, or one for each row (first axis). */
export type Scale = number | Float32Array

/** The size of `count` values in bytes; not an integer if they do not fill whole blocks. */
export function bytesOf(dtype: ParameterDtype, count: number): number {
  const [values, bytes] = BLOCKS[dtype]
  return (count / values) * bytes
}

/** `finite`: no NaN and no infinity in the source. `overflow`: a finite source value became infinite. */
export type Conversion = { finite: boolean; overflow: boolean }

/** Bits of float32 65520, the first magnitude that rounds to an infinite float16. */
const HALF_OVERFLOW = 0x477ff000

/** Decodes the values `src` of type `dtype`, times `scale`, into `out`. Each product is rounded once, to float32. */
export function toFloat32(src: Uint8Array, dtype: ParameterDtype, scale: Scale, out: Float32Array): Conversion {
  assertLength(src, out.length, dtype)
  decode(dtype, src, out)
  const finite = allFinite(out)
  if (scale === 1) return { finite, overflow: false }
  if (typeof scale === 'number') multiply(out, scale)
  else {
    const columns = out.length / scale.length
    for (const [row, factor] of scale.entries()) multiply(out.subarray(row * columns, (row + 1) * columns), factor)
  }
  return { finite, overflow: finite && !allFinite(out) }
}

function multiply(values: Float32Array, factor: number): void {
  for (let i = 0; i < values.length; i++) values[i] = values[i]! * factor
}

/** Rounds to the nearest IEEE float16, ties to even; magnitudes from 65520 up become infinite. Lengths must agree. */
export function convertFloat32ToFloat16(src: Float32Array, out: Uint16Array): Conversion {
  new Float16Array(out.buffer, out.byteOffset, out.length).set(src)
  const largest = findLargestMagnitude(src)
  if (largest < HALF_OVERFLOW) return { finite: true, overflow: false }
  return { finite: largest < INFINITY_BITS, overflow: bitsOf(src).some((value) => overflowsHalf(value & 0x7fffffff)) }
}

/** Rounds bfloat16 to float16 as `convertFloat32ToFloat16` does; exact except for subnormal results and overflow. */
export function convertBfloat16ToFloat16(src: Uint8Array, out: Uint16Array): Conversion {
  assertLength(src, out.length, 'BF16')
  const values = viewWords(src)
  const table = halfOfBfloat16()
  let largest = 0
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!
    const magnitude = value & 0x7fff
    if (magnitude > largest) largest = magnitude
    out[i] = table[value]!
  }
  if (largest << 16 < HALF_OVERFLOW) return { finite: true, overflow: false }
  return {
    finite: largest << 16 < INFINITY_BITS,
    overflow: values.some((value) => overflowsHalf((value & 0x7fff) << 16)),
  }
}

/** Whether no value is NaN or infinite. */
function allFinite(values: Float32Array): boolean {
  return findLargestMagnitude(values) < INFINITY_BITS
}

function decode(dtype: ParameterDtype, src: Uint8Array, out: Float32Array): void {
  if (isGgmlType(dtype)) decodeBlocks(dtype, src.byteOffset % 2 === 0 ? src : src.slice(), out)
  else decoders[dtype](src, out)
}

const isGgmlType = (dtype: ParameterDtype): dtype is GgmlType => Object.hasOwn(GGML_BLOCKS, dtype)

const decoders: Record<Exclude<ParameterDtype, GgmlType>, (src: Uint8Array, out: Float32Array) => void> = {
  F64: (src, out) => out.set(new Float64Array(src.slice().buffer)),
  F32: (src, out) => new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(src),
  F16: (src, out) => {
    const { buffer, byteOffset, length } = viewWords(src)
    out.set(new Float16Array(buffer, byteOffset, length))
  },
  BF16: (src, out) => {
    const values = viewWords(src)
    const bits = bitsOf(out)
    for (let i = 0; i < values.length; i++) bits[i] = values[i]! << 16
  },
  F8_E4M3: (src, out) => {
    for (let i = 0; i < src.length; i++) out[i] = decodeTable[src[i]!]!
  },
  F8_E5M2: (src, out) => {
    for (let i = 0; i < src.length; i++) out[i] = decodeTableE5M2[src[i]!]!
  },
}

function overflowsHalf(magnitude: number): boolean {
  return magnitude >= HALF_OVERFLOW && magnitude < INFINITY_BITS
}

/** Copies blocks at odd addresses, because typed arrays must be aligned. */
function viewWords(src: Uint8Array): Uint16Array {
  const aligned = src.byteOffset % 2 === 0 ? src : src.slice()
  return new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 2)
}

function assertLength(src: Uint8Array, elements: number, dtype: ParameterDtype): void {
  if (src.byteLength === bytesOf(dtype, elements)) return
  throw new RangeError(`${src.byteLength} bytes are not ${elements} values of ${dtype}`)
}

let halves: Uint16Array | undefined
/** The float16 of every bfloat16: 128 KB, of which real weights use a small part. */
function halfOfBfloat16(): Uint16Array {
  if (halves) return halves
  const values = new Float32Array(65536)
  decoders.BF16(new Uint8Array(Uint16Array.from(values.keys()).buffer), values)
  halves = new Uint16Array(65536)
  convertFloat32ToFloat16(values, halves)
  return halves
}

// Bulk conversions between the number formats of checkpoints and packages, for little-endian blocks of a few MB.
import { decodeTable } from './fp8.ts'
import { bitsOf, INFINITY_BITS, largestMagnitude } from './magnitude.ts'
import { ELEMENT_BYTES } from './safetensors.ts'

const { F32, F16, BF16, F8_E4M3 } = ELEMENT_BYTES
/** Element types of parameters that can be compiled, with their size. */
export const BYTES_PER_ELEMENT = { F32, F16, BF16, F8_E4M3 }
export type ParameterDtype = keyof typeof BYTES_PER_ELEMENT

/** `finite`: no NaN and no infinity in the source. `overflow`: a finite source value became infinite. */
export type Conversion = { finite: boolean; overflow: boolean }

/** Bits of float32 65520, the first magnitude that rounds to an infinite float16. */
const HALF_OVERFLOW = 0x477ff000

/** Decodes `src` of `dtype` times `scale` into `out`, one element each; the product is rounded once, to float32. */
export function toFloat32(src: Uint8Array, dtype: ParameterDtype, scale: number, out: Float32Array): Conversion {
  assertLength(src, out.length, dtype)
  decoders[dtype](src, out)
  const finite = allFinite(out)
  if (scale === 1) return { finite, overflow: false }
  for (let i = 0; i < out.length; i++) out[i] = out[i]! * scale
  return { finite, overflow: finite && !allFinite(out) }
}

/** Rounds to the nearest IEEE float16, ties to even; magnitudes from 65520 up become infinite. Lengths must agree. */
export function float32ToFloat16(src: Float32Array, out: Uint16Array): Conversion {
  new Float16Array(out.buffer, out.byteOffset, out.length).set(src)
  const largest = largestMagnitude(src)
  if (largest < HALF_OVERFLOW) return { finite: true, overflow: false }
  return { finite: largest < INFINITY_BITS, overflow: bitsOf(src).some((value) => overflowsHalf(value & 0x7fffffff)) }
}

/** Rounds bfloat16 to float16 as `float32ToFloat16` does; exact except for subnormal results and overflow. */
export function bfloat16ToFloat16(src: Uint8Array, out: Uint16Array): Conversion {
  assertLength(src, out.length, 'BF16')
  const values = words(src)
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
export function allFinite(values: Float32Array): boolean {
  return largestMagnitude(values) < INFINITY_BITS
}

const decoders: Record<ParameterDtype, (src: Uint8Array, out: Float32Array) => void> = {
  F32: (src, out) => new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(src),
  F16: (src, out) => {
    const { buffer, byteOffset, length } = words(src)
    out.set(new Float16Array(buffer, byteOffset, length))
  },
  BF16: (src, out) => {
    const values = words(src)
    const bits = bitsOf(out)
    for (let i = 0; i < values.length; i++) bits[i] = values[i]! << 16
  },
  F8_E4M3: (src, out) => {
    for (let i = 0; i < src.length; i++) out[i] = decodeTable[src[i]!]!
  },
}

function overflowsHalf(magnitude: number): boolean {
  return magnitude >= HALF_OVERFLOW && magnitude < INFINITY_BITS
}

/** Copies blocks at odd addresses, because typed arrays must be aligned. */
function words(src: Uint8Array): Uint16Array {
  const aligned = src.byteOffset % 2 === 0 ? src : src.slice()
  return new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 2)
}

function assertLength(src: Uint8Array, elements: number, dtype: ParameterDtype): void {
  if (src.byteLength === elements * BYTES_PER_ELEMENT[dtype]) return
  throw new RangeError(`${src.byteLength} bytes are not ${elements} values of ${dtype}`)
}

let halves: Uint16Array | undefined
/** The float16 of every bfloat16: 128 KB, of which real weights use a small part. */
function halfOfBfloat16(): Uint16Array {
  if (halves) return halves
  const values = new Float32Array(65536)
  decoders.BF16(new Uint8Array(Uint16Array.from(values.keys()).buffer), values)
  halves = new Uint16Array(65536)
  float32ToFloat16(values, halves)
  return halves
}

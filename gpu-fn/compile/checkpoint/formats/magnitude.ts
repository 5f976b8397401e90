// The bit patterns of float32 magnitudes are ordered like the numbers, with NaN above infinity: their maximum also shows whether all are finite.

/** Bits of float32 infinity; larger ones are NaN. */
export const INFINITY_BITS = 0x7f800000

/** Elements per call of the inner loop. V8 optimizes short calls more reliably than one long call. */
const CHUNK = 8192

/** Bits of the largest magnitude of `values`. */
export function findLargestMagnitude(values: Float32Array): number {
  const bits = bitsOf(values)
  let largest = 0
  for (let start = 0; start < bits.length; start += CHUNK) {
    largest = Math.max(largest, findLargest(bits, start, Math.min(start + CHUNK, bits.length)))
  }
  return largest
}

/** Bits of the largest magnitude from `start` to `end`; `bits` are float32 as integers. */
export function findLargest(bits: Int32Array, start: number, end: number): number {
  let largest = 0
  for (let i = start; i < end; i++) {
    const magnitude = bits[i]! & 0x7fffffff
    if (magnitude > largest) largest = magnitude
  }
  return largest
}

export function bitsOf(values: Float32Array): Int32Array {
  return new Int32Array(values.buffer, values.byteOffset, values.length)
}

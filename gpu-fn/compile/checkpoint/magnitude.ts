// As integers, magnitudes of float32 compare like the numbers, and NaN is above infinity: one integer tells all that is to be known.

/** Bits of float32 infinity: magnitudes from here up are not finite. */
export const INFINITY_BITS = 0x7f800000

/** Elements that one call of an inner loop handles. Loops in short calls stay optimized in V8; one long call may not. */
const CHUNK = 8192

/** Bits of the largest magnitude of `values`. */
export function largestMagnitude(values: Float32Array): number {
  const bits = bitsOf(values)
  let largest = 0
  for (let start = 0; start < bits.length; start += CHUNK) {
    largest = Math.max(largest, largestIn(bits, start, Math.min(start + CHUNK, bits.length)))
  }
  return largest
}

/** Bits of the largest magnitude from `start` to `end`, of float32 seen as integers. */
export function largestIn(bits: Int32Array, start: number, end: number): number {
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

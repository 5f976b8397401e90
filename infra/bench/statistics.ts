export { median } from '../../gpu-fn/scheduler/median.ts'

/** The nearest-rank quantile at the fraction `part` (0 to 1); NaN for an empty list. */
export function percentile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)] ?? Number.NaN
}

/** ‖given − expected‖ / ‖expected‖. Throws if the lengths differ. */
export function computeRelativeError(given: Float32Array, expected: Float32Array): number {
  if (given.length !== expected.length) throw new Error(`${given.length} values are given, ${expected.length} expected`)
  let difference = 0
  let norm = 0
  for (let i = 0; i < expected.length; i++) {
    difference += (given[i]! - expected[i]!) ** 2
    norm += expected[i]! ** 2
  }
  return Math.sqrt(difference / norm)
}

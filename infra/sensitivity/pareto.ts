// Layers ordered by sensitivity, and the trade-off between size and error as more of them stay in FP8.

/** A candidate for 4-bit weights. `error`: velocity error with this layer alone in 4 bits. `weights`: weight count. */
export type Layer = { readonly name: string; readonly error: number; readonly weights: number }
/** Size and error of the step graph with the `kept` most sensitive layers in FP8 and the others in 4 bits. */
export type Point = { readonly kept: number; readonly bytes: number; readonly error: number }

/** Bytes per weight. `int4`: 4 bits plus one scale byte per 32 weights. Row scales have the same size in both formats. */
const BYTES = { fp8: 1, int4: 0.5 + 1 / 32 }

/** Sorts by squared error per weight, descending. Independent rounding errors sum in quadrature. */
export const sortByEffect = (layers: readonly Layer[]): Layer[] =>
  layers.toSorted((a, b) => b.error ** 2 / b.weights - a.error ** 2 / a.weights)

/** Size in bytes of the step graph with the first `kept` layers in FP8. `all`: size with all layers in FP8. */
export function computeBytes(layers: readonly Layer[], kept: number, all: number): number {
  const packed = layers.slice(kept).reduce((sum, { weights }) => sum + weights, 0)
  return all - packed * (BYTES.fp8 - BYTES.int4)
}

/** The Pareto frontier: points not dominated in size and error. */
export const findFrontier = (points: readonly Point[]): Point[] =>
  points.filter(
    ({ bytes, error }) =>
      !points.some(
        (other) => other.bytes <= bytes && other.error <= error && (other.bytes < bytes || other.error < error),
      ),
  )

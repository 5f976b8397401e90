// The layers in order of their effect, and the sizes and errors as more of them stay in FP8.

/** A layer that may have 4 bits: the error of the velocity if it alone does, and the number of its weights. */
export type Layer = { readonly name: string; readonly error: number; readonly weights: number }
/** The step graph with the `kept` layers of largest effect in FP8 and the others in 4 bits. */
export type Point = { readonly kept: number; readonly bytes: number; readonly error: number }

/** Bytes per weight in FP8, and in 4 bits with a scale byte per 32 weights; scales of rows are the same in both. */
const BYTES = { fp8: 1, int4: 0.5 + 1 / 32 }

/** Largest effect per byte first. Errors of independent roundings add up in squares. */
export const byEffect = (layers: readonly Layer[]): Layer[] =>
  layers.toSorted((a, b) => b.error ** 2 / b.weights - a.error ** 2 / a.weights)

/** Bytes of the step graph with the first `kept` layers in FP8. `all`: bytes with every layer in FP8. */
export function bytesWith(layers: readonly Layer[], kept: number, all: number): number {
  const packed = layers.slice(kept).reduce((sum, { weights }) => sum + weights, 0)
  return all - packed * (BYTES.fp8 - BYTES.int4)
}

/** The points that no other point beats in both size and error. */
export const frontier = (points: readonly Point[]): Point[] =>
  points.filter(
    ({ bytes, error }) =>
      !points.some(
        (other) => other.bytes <= bytes && other.error <= error && (other.bytes < bytes || other.error < error),
      ),
  )

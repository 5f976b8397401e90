// Image sizes that a model supports.
import type { Package } from '../../manifest.ts'
import type { Size } from '../../pipeline/pipeline.ts'

/** In pixels. */
type SideLimits = { side: { max: number; multipleOf: number } }

/** The size alone: a message to the engine's thread would copy the other fields of a request. */
export const sizeOf = ({ width, height }: Size): Size => ({ width, height })

/** The supported sizes among the given ones; by default, the package's own size. */
export function supportedSizesOf(
  { manifest: { defaults } }: Pick<Package, 'manifest'>,
  { side }: SideLimits,
  sizes: readonly Size[] = [defaults],
): Size[] {
  const isSupported = (pixels: number) => pixels <= side.max && pixels % side.multipleOf === 0
  return sizes.filter(({ width, height }) => isSupported(width) && isSupported(height)).map(sizeOf)
}

/** The largest supported size; undefined if none is supported. */
export const largestSizeOf = (...given: Parameters<typeof supportedSizesOf>): Size | undefined =>
  supportedSizesOf(...given).toSorted((a, b) => b.width * b.height - a.width * a.height)[0]

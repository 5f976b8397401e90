// Image sizes that a model supports.
import type { Package } from '../../manifest.ts'
import type { Size } from '../../pipeline/pipeline.ts'

/** In pixels. */
type SideLimits = { side: { max: number; multipleOf: number } }

/** The size of a request, without its other fields, which a message to the engine's thread would copy. */
export const sizeOf = ({ width, height }: Size): Size => ({ width, height })

/** Those of the sizes that the model supports; by default, the package's own size. */
export function supportedSizesOf(
  { manifest: { defaults } }: Pick<Package, 'manifest'>,
  { side }: SideLimits,
  sizes: readonly Size[] = [defaults],
): Size[] {
  const isSupported = (pixels: number) => pixels <= side.max && pixels % side.multipleOf === 0
  return sizes.filter(({ width, height }) => isSupported(width) && isSupported(height)).map(sizeOf)
}

/** The largest of the sizes that the model supports; undefined if it supports none. */
export const largestSizeOf = (...given: Parameters<typeof supportedSizesOf>): Size | undefined =>
  supportedSizesOf(...given).toSorted((a, b) => b.width * b.height - a.width * a.height)[0]

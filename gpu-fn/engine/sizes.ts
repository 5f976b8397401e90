// Image sizes that a model supports.
import type { Package } from '../manifest.ts'
import type { Size } from '../pipeline/pipeline.ts'

/** In pixels. */
type Supported = { side: { max: number; multipleOf: number } }

/** Only the fields that the engine's thread needs, because it receives a copy. */
export const sizeOf = ({ width, height }: Size): Size => ({ width, height })

/** The supported ones of these sizes, by default that of the package. */
export function supportedOf(
  { manifest: { defaults } }: Pick<Package, 'manifest'>,
  { side }: Supported,
  sizes: readonly Size[] = [defaults],
): Size[] {
  const isSupported = (pixels: number) => pixels <= side.max && pixels % side.multipleOf === 0
  return sizes.filter(({ width, height }) => isSupported(width) && isSupported(height)).map(sizeOf)
}

/** The largest supported one of these sizes; undefined if there is none. */
export const largestOf = (...given: Parameters<typeof supportedOf>): Size | undefined =>
  supportedOf(...given).toSorted((a, b) => b.width * b.height - a.width * a.height)[0]

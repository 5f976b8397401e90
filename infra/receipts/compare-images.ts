// Differences between two images of the same size.
import sharp from 'sharp'

/** 8-bit values of an image in row-major order, with the channels of a pixel adjacent. */
export type Pixels = { data: Uint8Array; width: number; height: number; channels: number }

/** The pixels of an image file as RGB. */
export async function readPixels(file: Uint8Array | string): Promise<Pixels> {
  const { data, info } = await sharp(file).removeAlpha().raw().toBuffer({ resolveWithObject: true })
  const { width, height, channels } = info
  return { data, width, height, channels }
}

/** Throws if the sizes differ. */
export function assertSameSize(a: Pixels, b: Pixels): void {
  const formatDimensions = ({ width, height }: Pixels) => `${width}x${height}`
  if (formatDimensions(a) !== formatDimensions(b))
    throw new Error(`one image is ${formatDimensions(a)}, the other ${formatDimensions(b)}`)
}

/** Peak signal-to-noise ratio in dB; Infinity for equal pixels. Throws if the sizes differ. */
export function psnr(a: Pixels, b: Pixels): number {
  assertSameSize(a, b)
  const squares = a.data.reduce((sum, value, i) => sum + (value - b.data[i]!) ** 2, 0)
  return 10 * Math.log10(255 ** 2 / (squares / a.data.length))
}

/** The largest difference between two values, 0 to 255, and the fraction of unequal values. Throws if the sizes differ. */
export function compareDifferences(a: Pixels, b: Pixels): { largest: number; share: number } {
  assertSameSize(a, b)
  const each = a.data.map((value, i) => Math.abs(value - b.data[i]!))
  return { largest: each.reduce((x, y) => Math.max(x, y)), share: each.filter((d) => d > 0).length / each.length }
}

// How far two image files of the same size lie apart.
import sharp from 'sharp'
import { ssim as structuralSimilarity } from 'ssim.js'

/** 8-bit values of an image, row by row; the channels of a pixel stand together. */
export type Pixels = { data: Uint8Array; width: number; height: number; channels: number }

/** The pixels of an image file as RGB. */
export async function readPixels(file: Uint8Array | string): Promise<Pixels> {
  const { data, info } = await sharp(file).removeAlpha().raw().toBuffer({ resolveWithObject: true })
  const { width, height, channels } = info
  return { data, width, height, channels }
}

function assertSameSize(a: Pixels, b: Pixels): void {
  const size = ({ width, height }: Pixels) => `${width}x${height}`
  if (size(a) !== size(b)) throw new Error(`one image is ${size(a)}, the other ${size(b)}`)
}

/** Peak signal-to-noise ratio in dB; Infinity for the same pixels. Throws when the sizes differ. */
export function psnr(a: Pixels, b: Pixels): number {
  assertSameSize(a, b)
  const squares = a.data.reduce((sum, value, i) => sum + (value - b.data[i]!) ** 2, 0)
  return 10 * Math.log10(255 ** 2 / (squares / a.data.length))
}

/** The largest difference of two values, 0 to 255, and the share of values that differ at all. Throws when the sizes differ. */
export function differences(a: Pixels, b: Pixels): { largest: number; share: number } {
  assertSameSize(a, b)
  const each = a.data.map((value, i) => Math.abs(value - b.data[i]!))
  return { largest: each.reduce((x, y) => Math.max(x, y)), share: each.filter((d) => d > 0).length / each.length }
}

/** Structural similarity of the luma in Wang's windows of 11 × 11, at full size: 1 for the same pixels. Throws when the sizes differ. */
export function ssim(a: Pixels, b: Pixels): number {
  assertSameSize(a, b)
  return structuralSimilarity(withAlpha(a), withAlpha(b), { ssim: 'original', downsample: false }).mssim
}

/** As ssim.js takes them. */
function withAlpha({ data, width, height }: Pixels) {
  const rgba = new Uint8ClampedArray(width * height * 4).fill(255)
  for (let i = 0; i < width * height; i++) rgba.set(data.subarray(3 * i, 3 * i + 3), 4 * i)
  return { data: rgba, width, height }
}

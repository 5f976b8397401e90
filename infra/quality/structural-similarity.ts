// SSIM of two images, in a file of its own because ssim.js is a development dependency.
import { ssim as structuralSimilarity } from 'ssim.js'
import { assertSameSize, type Pixels } from '../receipts/compare-images.ts'

/** Structural similarity of the luma in Wang's 11 × 11 windows, without downsampling: 1 for equal pixels. Throws if the sizes differ. */
export function ssim(a: Pixels, b: Pixels): number {
  assertSameSize(a, b)
  return structuralSimilarity(withAlpha(a), withAlpha(b), { ssim: 'original', downsample: false }).mssim
}

/** Converts RGB to the RGBA input of ssim.js. */
function withAlpha({ data, width, height }: Pixels) {
  const rgba = new Uint8ClampedArray(width * height * 4).fill(255)
  for (let i = 0; i < width * height; i++) rgba.set(data.subarray(3 * i, 3 * i + 3), 4 * i)
  return { data: rgba, width, height }
}

// Previews of a latent during denoising: a linear map from its channels to colors, with one pixel per position.
import sharp from 'sharp'
import { LIMITS } from '../contract.ts'
import { encodeWithin } from './image.ts'

/** Red, green and blue of each latent channel. */
export type PreviewFactors = readonly (readonly [number, number, number])[]

/** The image that the current velocity leads to: the latent without the remaining noise, `latent` - `sigma` · `velocity`. */
export function removeNoise(latent: Float32Array, velocity: Float32Array, sigma: number): Float32Array {
  return latent.map((value, i) => value - sigma * velocity[i]!)
}

/** A latent [C, h, w] as interleaved 8-bit RGB [h, w, 3]. */
export function previewPixels(latent: Float32Array, area: number, factors: PreviewFactors): Uint8ClampedArray {
  const pixels = new Uint8ClampedArray(3 * area)
  for (let i = 0; i < area; i++) {
    for (let color = 0; color < 3; color++) {
      const value = factors.reduce((sum, rgb, channel) => sum + latent[channel * area + i]! * rgb[color]!, 0)
      // The reference truncates; Uint8ClampedArray would round.
      pixels[3 * i + color] = Math.floor(((value + 1) / 2) * 255)
    }
  }
  return pixels
}

/** Renders a latent [C, height, width] as a JPEG of height × width pixels and at most `LIMITS.previewBytes` bytes. */
export async function encodePreview(
  latent: Float32Array,
  { width, height }: { width: number; height: number },
  factors: PreviewFactors,
): Promise<Uint8Array> {
  const raw = { width, height, channels: 3 } as const
  const pixels = previewPixels(latent, width * height, factors)
  return encodeWithin(LIMITS.previewBytes, 80, (quality) => sharp(pixels, { raw }).jpeg({ quality }).toBuffer())
}

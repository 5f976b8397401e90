// A rough look at a latent while it is denoised: a linear map from its 16 channels to colors, a pixel for each of its positions.
// Stability-AI/sd3.5 sd3_impls.py `SD3LatentFormat.decode_latent_to_preview`.
import sharp from 'sharp'
import { LIMITS } from '../contract.ts'
import { encodeWithin } from './image.ts'

/** Red, green and blue of each latent channel. */
const FACTORS: readonly (readonly [number, number, number])[] = [
  [-0.0645, 0.0177, 0.1052],
  [0.0028, 0.0312, 0.065],
  [0.1848, 0.0762, 0.036],
  [0.0944, 0.036, 0.0889],
  [0.0897, 0.0506, -0.0364],
  [-0.002, 0.1203, 0.0284],
  [0.0855, 0.0118, 0.0283],
  [-0.0539, 0.0658, 0.1047],
  [-0.0057, 0.0116, 0.07],
  [-0.0412, 0.0281, -0.0039],
  [0.1106, 0.1171, 0.122],
  [-0.0248, 0.0682, -0.0481],
  [0.0815, 0.0846, 0.1207],
  [-0.012, -0.0055, -0.0867],
  [-0.0749, -0.0634, -0.0456],
  [-0.1418, -0.1457, -0.1259],
]

/** Whether latents of so many channels can be looked at. */
export const canPreview = (channels: number): boolean => channels === FACTORS.length

/** What the image would be if the velocity stayed as it is: the latent without the noise that is left. `latent` - `sigma` · `velocity`. */
export function withoutNoise(latent: Float32Array, velocity: Float32Array, sigma: number): Float32Array {
  return latent.map((value, i) => value - sigma * velocity[i]!)
}

/** A latent [16, h, w] as interleaved 8-bit RGB [h, w, 3]. */
export function previewPixels(latent: Float32Array, area: number): Uint8ClampedArray {
  const pixels = new Uint8ClampedArray(3 * area)
  for (let i = 0; i < area; i++) {
    for (let color = 0; color < 3; color++) {
      const value = FACTORS.reduce((sum, factors, channel) => sum + latent[channel * area + i]! * factors[color]!, 0)
      // The array would round; the reference cuts off.
      pixels[3 * i + color] = Math.floor(((value + 1) / 2) * 255)
    }
  }
  return pixels
}

/** Renders a latent [16, height, width] as a JPEG of height × width pixels and at most `LIMITS.previewBytes` bytes. */
export async function encodePreview(latent: Float32Array, width: number, height: number): Promise<Uint8Array> {
  const raw = { width, height, channels: 3 } as const
  const pixels = previewPixels(latent, width * height)
  return encodeWithin(LIMITS.previewBytes, 80, (quality) => sharp(pixels, { raw }).jpeg({ quality }).toBuffer())
}

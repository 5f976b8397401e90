// The latent with which the denoising of an image starts: noise, or an input image with noise. diffusers
// pipeline_stable_diffusion_3_img2img.py and …_inpaint.py: the generator draws the sample of the encoded image first, then the noise.
import { DEFAULT_STRENGTH, firstStepOf, type JobRequest, seedOf } from '../../contract.ts'
import { countElements } from '../../dtype.ts'
import { createNoise } from '../noise.ts'
import type { Pipeline } from '../pipeline.ts'
import { computeNoiseLevels } from '../schedulers/noise-levels.ts'
import type { DrawNoise, Sampling } from '../schedulers/scheduler.ts'
import { encodePixels, type LatentDistribution } from './encode.ts'

/** An input image of the size of the result. */
export type InputImage = {
  /** Interleaved 8-bit RGB [H, W, 3]. */
  pixels: Uint8Array
  /** The share of each pixel that is repainted, 0 to 255 [H, W]; null repaints the whole image. */
  mask: Uint8Array | null
  /** The mask's edge is soft. diffusers' is hard: each latent takes the nearest pixel. */
  soft: boolean
}

export type Start = {
  latent: Float32Array
  /** Index of the first step that runs. */
  first: number
  /** Draws the noise of steps, which follows that of the start, as in diffusers with one generator. */
  draw: DrawNoise
  /** Restores the parts outside of the mask. Called after each step with the latent and its noise level. */
  restore?: (latent: Float32Array, sigma: number) => void
}

type StartRequest = Pick<JobRequest, 'seed' | 'strength'> & Sampling

/** Returns a function that prepares image number k of a request. `dims` [1, C, h, w] are those of its latent. */
export function createStarts(
  pipeline: Pipeline,
  request: StartRequest,
  { dims, input }: { dims: readonly number[]; input: InputImage | undefined },
  signal: AbortSignal,
): (image: number) => Promise<Start> {
  const count = countElements(dims)
  const generatorOf = (image: number) => createNoise(seedOf(request.seed, image), count)
  if (!input)
    return async (image) => {
      const draw = generatorOf(image)
      return { latent: await draw(), first: 0, draw }
    }
  const sigmas = computeNoiseLevels(request, pipeline.package.manifest.scheduler)
  const first = firstStepOf(sigmas.length - 1, request.strength ?? DEFAULT_STRENGTH)
  const keep = input.mask && toLatentMask(input.mask, dims, input.soft).map((share) => 1 - share)
  let distribution: Promise<LatentDistribution> | undefined
  return async (image) => {
    distribution ??= encodeInput(pipeline, input, dims, signal)
    const draw = generatorOf(image)
    const encoded = sample(await distribution, await draw())
    const noise = await draw()
    const latent = addNoise(encoded, noise, sigmas[first]!)
    if (!keep) return { latent, first, draw }
    return { latent, first, draw, restore: (latent, sigma) => restore(latent, addNoise(encoded, noise, sigma), keep) }
  }
}

function encodeInput(
  { vaeEncoder, plan, package: { manifest } }: Pipeline,
  { pixels }: InputImage,
  dims: readonly number[],
  signal: AbortSignal,
): Promise<LatentDistribution> {
  if (!vaeEncoder) throw new RangeError(`${manifest.model} takes no input image: its package has no VAE encoder`)
  return encodePixels(vaeEncoder, pixels, dims, { tile: plan.tile, downsample: manifest.latent.downsample, signal })
}

const sample = ({ mean, deviation }: LatentDistribution, noise: Float32Array) =>
  mean.map((value, i) => value + Math.fround(deviation[i]! * noise[i]!))

/** `sigma · noise + (1 - sigma) · latent`. diffusers scheduling_flow_match_euler_discrete.py `scale_noise` */
function addNoise(latent: Float32Array, noise: Float32Array, sigma: number): Float32Array {
  const rest = Math.fround(1 - sigma)
  return latent.map((value, i) => Math.fround(sigma * noise[i]!) + Math.fround(rest * value))
}

/** Blends `original` [C, h, w] into `latent` in place; `keep` [h·w] is its share at each position. */
function restore(latent: Float32Array, original: Float32Array, keep: Float32Array): void {
  for (let i = 0; i < latent.length; i++) {
    const share = keep[i % keep.length]!
    latent[i] = Math.fround((1 - share) * latent[i]!) + Math.fround(share * original[i]!)
  }
}

/** A mask [H, W] as shares [h·w] of 0 to 1: the mean over a latent's pixels if it is soft, else its first pixel, which is 0 or 1. */
function toLatentMask(mask: Uint8Array, dims: readonly number[], soft: boolean): Float32Array {
  const [, , h, w] = dims as [number, number, number, number]
  const scale = Math.round(Math.sqrt(mask.length / (h * w)))
  const side = soft ? scale : 1
  const shares = new Float32Array(h * w)
  for (let y = 0; y < h * scale; y++) {
    for (let x = 0; x < w * scale; x++) {
      if (y % scale >= side || x % scale >= side) continue
      const at = Math.floor(y / scale) * w + Math.floor(x / scale)
      shares[at]! += mask[y * w * scale + x]! / 255 / side ** 2
    }
  }
  return shares
}

// DPM-Solver++(2M), of second order with one run per step: extrapolates from the images of the current and the previous step.
// arXiv 2211.01095; Stability-AI/sd3.5 sd3_impls.py `sample_dpmpp_2m` @ fbf8f48, equal to k-diffusion's and ComfyUI's. The noise level of
// the flow takes the place of the standard deviation.
import { removeNoise } from '../preview.ts'
import type { Sampler } from './scheduler.ts'

const { fround } = Math

export function dpmpp2m(sigmas: Float32Array): Sampler {
  const times = sigmas.map((sigma) => -Math.log(sigma))
  let before: Float32Array | undefined
  return {
    step(velocity, run, sample) {
      const image = removeNoise(sample, velocity, sigmas[run]!)
      const h = fround(times[run + 1]! - times[run]!)
      const ratio = fround(fround(Math.exp(-times[run + 1]!)) / fround(Math.exp(-times[run]!)))
      const toImage = -fround(Math.expm1(-h))
      // The last step, to noise level 0, ends at the image itself.
      const isFirstOrder = before === undefined || sigmas[run + 1] === 0
      const half = isFirstOrder ? 0 : fround(h / fround(2 * fround(times[run]! - times[run - 1]!)))
      for (let i = 0; i < sample.length; i++) {
        const target = isFirstOrder ? image[i]! : fround((1 + half) * image[i]! - half * before![i]!)
        sample[i] = ratio * sample[i]! + toImage * target
      }
      before = image
    },
  }
}

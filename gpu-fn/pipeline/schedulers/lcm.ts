// Sampling of consistency models: each step predicts the image, and then adds new noise up to the next noise level.
// arXiv 2303.01469, algorithm 1; diffusers `FlowMatchLCMScheduler`, and `FlowMatchEulerDiscreteScheduler` with `stochastic_sampling`.
import { removeNoise } from '../preview.ts'
import type { DrawNoise, Sampler } from './scheduler.ts'

const { fround } = Math

export const lcm = (sigmas: Float32Array, draw: DrawNoise): Sampler => ({
  async step(velocity, run, sample) {
    const image = removeNoise(sample, velocity, sigmas[run]!)
    const next = sigmas[run + 1]!
    const noise = next === 0 ? null : await draw()
    const share = fround(1 - next)
    for (let i = 0; i < sample.length; i++) sample[i] = fround(share * image[i]!) + (noise ? next * noise[i]! : 0)
  },
})

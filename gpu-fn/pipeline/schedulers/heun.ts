// Heun's method, of second order: a step moves along the mean velocity of its two ends. The last step, to noise level 0, is an Euler step.
// arXiv 2206.00364, algorithm 1; k-diffusion sampling.py `sample_heun`; diffusers `FlowMatchHeunDiscreteScheduler`.
import { moveAlong } from './euler.ts'
import type { Sampler } from './scheduler.ts'

export function heun(sigmas: Float32Array): Sampler {
  const steps = sigmas.length - 1
  /** The sample and the velocity at the start of a step. */
  let start: { sample: Float32Array; velocity: Float32Array } | undefined
  return {
    runs: Array.from({ length: 2 * steps - 1 }, (_, run) => ({ step: run >> 1, level: (run + 1) >> 1 })),
    step(velocity, run, sample) {
      const step = run >> 1
      const [sigma, next] = [sigmas[step]!, sigmas[step + 1]!]
      if (start) {
        const mean = start.velocity.map((value, i) => (value + velocity[i]!) / 2)
        sample.set(start.sample)
        moveAlong(sample, mean, sigma, next)
        start = undefined
        return
      }
      if (step < steps - 1) start = { sample: sample.slice(), velocity: velocity.slice() }
      moveAlong(sample, velocity, sigma, next)
    },
  }
}

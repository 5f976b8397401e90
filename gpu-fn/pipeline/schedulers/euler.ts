// Flow-match Euler, rounded to float32 where diffusers rounds, so that both produce the same samples.
// arXiv 2403.03206, section 3; diffusers scheduling_flow_match_euler_discrete.py `FlowMatchEulerDiscreteScheduler`.
import type { Sampler } from './scheduler.ts'

export const euler = (sigmas: Float32Array): Sampler => ({
  step: (velocity, run, sample) => moveAlong(sample, velocity, sigmas[run]!, sigmas[run + 1]!),
})

/** One Euler step in place: `sample += (next - sigma) · velocity`. */
export function moveAlong(sample: Float32Array, velocity: Float32Array, sigma: number, next: number): void {
  const dt = Math.fround(next - sigma)
  for (let i = 0; i < sample.length; i++) sample[i] = sample[i]! + Math.fround(dt * velocity[i]!)
}

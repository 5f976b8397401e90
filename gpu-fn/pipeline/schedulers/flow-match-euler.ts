// Flow-match Euler, rounded to float32 where diffusers rounds, so that both produce the same samples.
// arXiv 2403.03206, section 3; diffusers scheduling_flow_match_euler_discrete.py `FlowMatchEulerDiscreteScheduler`.
import type { Scheduler, SchedulerConfig } from './scheduler.ts'

/** The scheduler for `steps` steps: one run of the network each. */
export function flowMatchEuler(steps: number, config: SchedulerConfig): Scheduler {
  const sigmas = sigmaSchedule(steps, config)
  return {
    sigmas,
    timesteps: sigmas.subarray(0, -1).map((sigma) => sigma * config.num_train_timesteps),
    step: (velocity, run, sample) => eulerStep(sample, velocity, sigmas[run]!, sigmas[run + 1]!),
  }
}

/** Moves a noise level toward 1: the larger `shift`, the more steps are spent on high noise. Shift 1 changes nothing. */
function applyShift(sigma: number, shift: number): number {
  return (shift * sigma) / (1 + (shift - 1) * sigma)
}

/** The lowest noise level of the training schedule, with every operation in float32. */
function lowestSigma({ shift, num_train_timesteps }: SchedulerConfig): number {
  const sigma = Math.fround(1 / num_train_timesteps)
  const numerator = Math.fround(shift * sigma)
  return Math.fround(numerator / Math.fround(1 + Math.fround((shift - 1) * sigma)))
}

/** Stretches levels that begin at 1 so that the last is `terminal`. diffusers `stretch_shift_to_terminal`. */
function stretch(levels: readonly number[], terminal: number): number[] {
  const scale = (1 - levels.at(-1)!) / (1 - terminal)
  return levels.map((level) => 1 - (1 - level) / scale)
}

/**
 * The noise levels of `steps` steps and a final 0: `steps + 1` values that start at 1. diffusers spaces the steps evenly between the
 * ends of a schedule that is already shifted and then shifts again; its images depend on it.
 */
function sigmaSchedule(steps: number, config: SchedulerConfig): Float32Array {
  const first = config.num_train_timesteps
  const last = lowestSigma(config) * config.num_train_timesteps
  const stride = steps > 1 ? (last - first) / (steps - 1) : 0
  const levels = Array.from({ length: steps }, (_, i) => {
    const timestep = i > 0 && i === steps - 1 ? last : first + i * stride
    return applyShift(timestep / config.num_train_timesteps, config.shift)
  })
  // A single step has nothing to stretch: diffusers divides 0 by 0 there.
  const stretches = config.shift_terminal !== undefined && steps > 1
  return Float32Array.from([...(stretches ? stretch(levels, config.shift_terminal!) : levels), 0])
}

/** One Euler step in place: `sample += (next - sigma) · velocity`. */
function eulerStep(sample: Float32Array, velocity: Float32Array, sigma: number, next: number): void {
  const dt = Math.fround(next - sigma)
  for (let i = 0; i < sample.length; i++) sample[i] = sample[i]! + Math.fround(dt * velocity[i]!)
}

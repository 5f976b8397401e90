// Flow-match Euler, rounded to float32 where diffusers rounds, so that both walk the same path.
// arXiv 2403.03206, section 3; diffusers scheduling_flow_match_euler_discrete.py `FlowMatchEulerDiscreteScheduler`.

export type SchedulerConfig = {
  shift: number
  num_train_timesteps: number
  /** Noise level of the last step; where the shifted schedule ends unless given. */
  shift_terminal?: number | undefined
}

/** Moves a noise level towards 1, where more steps go the larger `shift` is. Shift 1 changes nothing. */
function shifted(sigma: number, shift: number): number {
  return (shift * sigma) / (1 + (shift - 1) * sigma)
}

/** The lowest noise level of the training schedule, with every operation in float32. */
function lowestSigma({ shift, num_train_timesteps }: SchedulerConfig): number {
  const sigma = Math.fround(1 / num_train_timesteps)
  const numerator = Math.fround(shift * sigma)
  return Math.fround(numerator / Math.fround(1 + Math.fround((shift - 1) * sigma)))
}

/** Stretches levels that begin at 1 so that the last is `terminal`. diffusers `stretch_shift_to_terminal`. */
function stretched(levels: readonly number[], terminal: number): number[] {
  const scale = (1 - levels.at(-1)!) / (1 - terminal)
  return levels.map((level) => 1 - (1 - level) / scale)
}

/**
 * The noise levels of `steps` steps and a closing 0: `steps + 1` values that start at 1. diffusers spaces the steps evenly between the
 * ends of a schedule that is already shifted and then shifts again; its pictures depend on it.
 */
export function sigmaSchedule(steps: number, config: SchedulerConfig): Float32Array {
  const first = config.num_train_timesteps
  const last = lowestSigma(config) * config.num_train_timesteps
  const stride = steps > 1 ? (last - first) / (steps - 1) : 0
  const levels = Array.from({ length: steps }, (_, i) => {
    const timestep = i > 0 && i === steps - 1 ? last : first + i * stride
    return shifted(timestep / config.num_train_timesteps, config.shift)
  })
  // A single step has nothing to stretch: diffusers divides 0 by 0 there.
  const stretch = config.shift_terminal !== undefined && steps > 1
  return Float32Array.from([...(stretch ? stretched(levels, config.shift_terminal!) : levels), 0])
}

/** What the network is told of each step's noise level: sigma · `num_train_timesteps`, without the closing 0. */
export function timestepsOf(sigmas: Float32Array, config: SchedulerConfig): Float32Array {
  return sigmas.subarray(0, -1).map((sigma) => sigma * config.num_train_timesteps)
}

/** One Euler step in place: `latent += (next - sigma) · velocity`. */
export function eulerStep(latent: Float32Array, velocity: Float32Array, sigma: number, next: number): void {
  const dt = Math.fround(next - sigma)
  for (let i = 0; i < latent.length; i++) latent[i] = latent[i]! + Math.fround(dt * velocity[i]!)
}

/** Classifier-free guidance (arXiv 2207.12598): `negative + scale · (positive - negative)`, written over `positive`. */
export function guide(negative: Float32Array, positive: Float32Array, scale: number): Float32Array {
  const weight = Math.fround(scale)
  for (let i = 0; i < positive.length; i++) {
    const difference = Math.fround(positive[i]! - negative[i]!)
    positive[i] = negative[i]! + Math.fround(weight * difference)
  }
  return positive
}

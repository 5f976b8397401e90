// The noise levels of the steps, rounded to float32 where diffusers and ComfyUI round.
// diffusers scheduling_flow_match_euler_discrete.py `set_timesteps`; ComfyUI comfy/samplers.py and comfy/model_sampling.py
// `ModelSamplingDiscreteFlow`.
import { computeBetaQuantile } from './beta-quantile.ts'
import type { Sampling, SchedulerConfig } from './scheduler.ts'

const { fround } = Math

/** Decreasing noise levels of `steps` steps, and a final 0: one value more than steps. */
export function computeNoiseLevels(
  { steps, noise_schedule: schedule, sigmas, shift }: Sampling,
  config: SchedulerConfig,
): Float32Array {
  const shifted = { ...config, ...(shift !== undefined && { shift }) }
  if (schedule && schedule !== 'normal' && !sigmas)
    return Float32Array.from([...SCHEDULES[schedule](steps, shifted), 0])
  return Float32Array.from([...spread(stretch(spaceNormally(steps, shifted, sigmas), shifted), shifted), 0])
}

/** Moves a noise level toward 1: the larger `shift`, the more steps are spent on high noise. Shift 1 changes nothing. */
function applyShift(sigma: number, shift: number): number {
  return (shift * sigma) / (1 + (shift - 1) * sigma)
}

/** `applyShift` with every operation in float32. */
function applyShift32(sigma: number, shift: number): number {
  return fround(fround(shift * sigma) / fround(1 + fround((shift - 1) * sigma)))
}

/** The noise level at `step` of the training schedule, from 1. */
const computeTrainedLevel = (step: number, { shift, num_train_timesteps }: SchedulerConfig): number =>
  applyShift32(fround(step / num_train_timesteps), shift)

/**
 * diffusers' levels: `sigmas`, or steps that are evenly spaced between the ends of a schedule that is already shifted, and then shifted
 * again; diffusers' images depend on it.
 */
function spaceNormally(steps: number, config: SchedulerConfig, sigmas?: readonly number[]): number[] {
  const { shift, num_train_timesteps: first } = config
  if (sigmas) return sigmas.map((sigma) => applyShift32(fround(sigma), shift))
  const last = computeTrainedLevel(1, config) * first
  const stride = steps > 1 ? (last - first) / (steps - 1) : 0
  return Array.from({ length: steps }, (_, i) => {
    const timestep = i > 0 && i === steps - 1 ? last : first + i * stride
    return applyShift(timestep / first, shift)
  })
}

/** Stretches levels that begin at 1 so that the last is `shift_terminal`. diffusers `stretch_shift_to_terminal`. */
function stretch(levels: number[], { shift_terminal: terminal }: SchedulerConfig): number[] {
  const range = 1 - levels.at(-1)!
  // A single step at level 1 has nothing to stretch: diffusers divides 0 by 0 there.
  if (terminal === undefined || range < 1e-9) return levels
  const scale = range / (1 - terminal)
  return levels.map((level) => 1 - (1 - level) / scale)
}

/** Spaces the levels between the first and the last. diffusers `_convert_to_karras`, `_convert_to_exponential`, `_convert_to_beta`. */
function spread(levels: number[], { spacing }: SchedulerConfig): number[] {
  const [max, min] = [levels[0]!, levels.at(-1)!]
  const mix = (from: number, to: number) =>
    levels.map((_, i) => from + (i / Math.max(1, levels.length - 1)) * (to - from))
  switch (spacing) {
    case 'karras':
      return mix(max ** (1 / 7), min ** (1 / 7)).map((root) => root ** 7)
    case 'exponential':
      return mix(Math.log(max), Math.log(min)).map(Math.exp)
    case 'beta':
      return mix(1, 0).map((share) => min + computeBetaQuantile(share) * (max - min))
    default:
      return levels
  }
}

type Levels = (steps: number, config: SchedulerConfig) => number[]

/** Half to even, as numpy's `rint`. */
function roundEven(value: number): number {
  const below = Math.floor(value)
  const fraction = value - below
  return fraction > 0.5 || (fraction === 0.5 && below % 2 === 1) ? below + 1 : below
}

/** ComfyUI's schedules over the levels of training. */
const SCHEDULES: Record<'simple' | 'sgm_uniform' | 'beta', Levels> = {
  /** `simple_scheduler` */
  simple: (steps, config) =>
    Array.from({ length: steps }, (_, i) => {
      const skipped = Math.trunc(i * (config.num_train_timesteps / steps))
      return computeTrainedLevel(config.num_train_timesteps - skipped, config)
    }),
  /** `normal_scheduler` with `sgm`: `steps` + 1 levels without the last. */
  sgm_uniform: (steps, config) => {
    const first = config.num_train_timesteps
    const last = fround(computeTrainedLevel(1, config) * first)
    const stride = fround(fround(last - first) / steps)
    const computeTimestep = (i: number) =>
      fround(i < (steps + 1) >> 1 ? first + fround(stride * i) : last - fround(stride * (steps - i)))
    return Array.from({ length: steps }, (_, i) => applyShift32(fround(computeTimestep(i) / first), config.shift))
  },
  /** `beta_scheduler`, which leaves out repeated levels. */
  beta: (steps, config) => {
    const max = config.num_train_timesteps - 1
    const indices = Array.from({ length: steps }, (_, i) => roundEven(computeBetaQuantile(1 - i / steps) * max))
    return [...new Set(indices)].map((index) => computeTrainedLevel(index + 1, config))
  },
}

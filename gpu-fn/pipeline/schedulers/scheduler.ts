// The interface of a scheduler (sampler), as in diffusers: `timesteps`, `sigmas` and `step`.
import type { Manifest } from '../../manifest.ts'

export type SchedulerConfig = Omit<Manifest['scheduler'], 'name'>

/** The schedule of one image and the state of its sampler. */
export interface Scheduler {
  /** The network's input for each of its runs. A scheduler of higher order has more runs than the request has steps. */
  readonly timesteps: Float32Array
  /** Noise level at each run, and the level after the last run: one value more than `timesteps`. */
  readonly sigmas: Float32Array
  /** Moves `sample` in place from `sigmas[run]` to `sigmas[run + 1]`, given the velocity at `timesteps[run]`. Runs come in order. */
  step(velocity: Float32Array, run: number, sample: Float32Array): void
}

/** `steps`: of the request. */
export type CreateScheduler = (steps: number, config: SchedulerConfig) => Scheduler

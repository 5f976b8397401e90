// The interface of a scheduler, as in diffusers: the noise levels of an image and the update rule of a step.
import type { JobRequest } from '../../contract.ts'
import type { Manifest } from '../../manifest.ts'

export type SchedulerConfig = Omit<Manifest['scheduler'], 'name'>
/** A request's choice of sampler and noise levels. */
export type Sampling = Pick<JobRequest, 'steps' | 'sampler' | 'noise_schedule' | 'sigmas' | 'shift'>
/** Draws noise of the sample's size. */
export type DrawNoise = () => Promise<Float32Array>

/** The schedule of one image and the state of its sampler. */
export interface Scheduler {
  /** Noise level at each step, and the level after the last one. */
  readonly sigmas: Float32Array
  /** The network's input in each of its runs. */
  readonly timesteps: Float32Array
  /** The step of each run, from 0. A sampler of higher order has several runs in a step. */
  readonly steps: readonly number[]
  /** Updates `sample` in place with the velocity at `timesteps[run]`. Called once for each run, in ascending order. */
  step(velocity: Float32Array, run: number, sample: Float32Array): void | Promise<void>
}

/** A sampler over given noise levels. By default the network runs once per step, at the step's level. */
export type Sampler = Pick<Scheduler, 'step'> & {
  /** The step of each run, and the index of its noise level. */
  runs?: readonly { step: number; level: number }[]
}
export type CreateSampler = (sigmas: Float32Array, draw: DrawNoise) => Sampler

// Step caching. A reused step takes the velocity of the last computed step. The next computed velocity then corrects the sample, as if the
// velocity had changed linearly with the noise level between the two. Without the correction, the errors of reused steps add up, and
// extrapolation instead of reuse amplifies the differences between early steps.
import type { Scheduler } from './schedulers/scheduler.ts'

/** The velocities of one image. */
export class VelocityCache {
  readonly #scheduler: Pick<Scheduler, 'sigmas' | 'timesteps' | 'steps'>
  /** The last computed velocity. */
  #last: { run: number; velocity: Float32Array } | undefined
  /** The runs that reused it. */
  #reused: number[] = []

  constructor(scheduler: Pick<Scheduler, 'sigmas' | 'timesteps' | 'steps'>) {
    this.#scheduler = scheduler
  }

  /** The last computed velocity, for `run`. */
  reuse(run: number): Float32Array {
    if (!this.#last) throw new Error(`run ${run} has no velocity to reuse`)
    this.#reused.push(run)
    return this.#last.velocity
  }

  /** Stores a computed velocity, and corrects the sample after reused runs. Call before the scheduler's step. */
  store(run: number, velocity: Float32Array, sample: Float32Array): void {
    if (this.#last && this.#reused.length > 0) {
      const weight = this.#correction(this.#last.run, run)
      const before = this.#last.velocity
      for (let i = 0; i < sample.length; i++) sample[i] = sample[i]! + weight * (velocity[i]! - before[i]!)
    }
    this.#last = { run, velocity: velocity.slice() }
    this.#reused = []
  }

  /** The weight of the change of the velocity between two computed runs: the sum of (next level - level) · fraction of the change, over reused runs. */
  #correction(from: number, to: number): number {
    const { sigmas, timesteps, steps } = this.#scheduler
    const runsOf = (step: number) => steps.filter((each) => each === step).length
    return this.#reused.reduce((sum, run) => {
      const step = steps[run]!
      const fraction = (timesteps[run]! - timesteps[from]!) / (timesteps[to]! - timesteps[from]!)
      return sum + ((sigmas[step + 1]! - sigmas[step]!) / runsOf(step)) * fraction
    }, 0)
  }
}

import type { Tier } from '#contract'

/** One finished job. `created` and `finished` are Unix milliseconds; the wait for the GPU, the model's `load` and the `run` are seconds. */
export type Observation = {
  endpoint: string
  model: string
  tier: Tier
  created: number
  finished: number
  megapixel_steps: number
  waited: number
  load: number
  run: number
}

// The samplers by name. contract.ts lists these names; manifest.ts lists diffusers' names, which checkpoints have.
import type { JobRequest } from '../../contract.ts'
import type { Manifest, SchedulerName } from '../../manifest.ts'
import { dpmpp2m } from './dpmpp-2m.ts'
import { euler } from './euler.ts'
import { heun } from './heun.ts'
import { lcm } from './lcm.ts'
import { computeNoiseLevels } from './noise-levels.ts'
import type { CreateSampler, DrawNoise, Sampling, Scheduler } from './scheduler.ts'

type SamplerName = NonNullable<JobRequest['sampler']>

const SAMPLERS: Record<SamplerName, CreateSampler> = { euler, dpmpp_2m: dpmpp2m, heun, lcm }

/** The sampler of a package, unless the request names another. */
const DEFAULTS: Record<SchedulerName, SamplerName> = {
  FlowMatchEulerDiscreteScheduler: 'euler',
  FlowMatchHeunDiscreteScheduler: 'heun',
  FlowMatchLCMScheduler: 'lcm',
}

/** The sampler of a request, or else that of the package. */
export const samplerOf = ({ sampler }: Pick<Sampling, 'sampler'>, { name }: Manifest['scheduler']): SamplerName =>
  sampler ?? DEFAULTS[name]

/** A new scheduler for one image of a package. `draw` gives the noise of samplers that add noise in each step. */
export function createScheduler(sampling: Sampling, scheduler: Manifest['scheduler'], draw: DrawNoise): Scheduler {
  const { name: _, ...config } = scheduler
  const sigmas = computeNoiseLevels(sampling, config)
  const { step, runs } = SAMPLERS[samplerOf(sampling, scheduler)](sigmas, draw)
  const all = runs ?? Array.from({ length: sigmas.length - 1 }, (_, step) => ({ step, level: step }))
  return {
    sigmas,
    timesteps: Float32Array.from(all, ({ level }) => sigmas[level]! * config.num_train_timesteps),
    steps: all.map((run) => run.step),
    step,
  }
}

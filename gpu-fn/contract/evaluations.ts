// The evaluations of the denoiser, which the price counts.
import type { ControlChoice } from './image-options.ts'
import { LIMITS } from './limits.ts'
import type { JobRequest } from './requests.ts'

/** The number of steps that an input image of this strength skips. diffusers `StableDiffusion3Img2ImgPipeline.get_timesteps` */
export const firstStepOf = (steps: number, strength: number): number =>
  Math.trunc(Math.max(steps - Math.min(steps * strength, steps), 0))

/** The first step that runs. */
const findFirstReused = ({ steps, strength = 1 }: Pick<Sampling, 'steps' | 'strength'>) => firstStepOf(steps, strength)

/** The number of steps that a job runs for each image. `strength` is that of its input image, undefined if there is none. */
export const countRunSteps = (steps: number, strength: number | undefined): number =>
  strength === undefined ? steps : steps - firstStepOf(steps, strength)

/** What determines the evaluations of the denoiser for one image. */
export type Sampling = Pick<
  JobRequest,
  | 'steps'
  | 'guidance_scale'
  | 'sampler'
  | 'guidance_interval'
  | 'skip_layer_guidance'
  | 'strength'
  | 'controls'
  | 'cache'
>

/** The step of each run of the denoiser: `heun` runs it at both ends of each step but the last. An input image skips the first steps. */
export function stepsOfRuns({
  steps,
  sampler,
  strength = 1,
}: Pick<Sampling, 'steps' | 'sampler' | 'strength'>): number[] {
  const runs = sampler === 'heun' ? 2 * steps - 1 : steps
  const first = findFirstReused({ steps, strength })
  return Array.from({ length: runs }, (_, run) => (sampler === 'heun' ? run >> 1 : run)).filter((step) => step >= first)
}

/** Whether guidance runs in a step, counted from 0. */
export function isGuided({ steps, guidance_scale, guidance_interval }: Sampling, step: number): boolean {
  const { start, stop } = guidance_interval ?? { start: 0, stop: 1 }
  return guidance_scale > 1 && step >= Math.trunc(start * steps) && step < Math.trunc(stop * steps)
}

/** Whether guidance runs in any step. */
export const hasGuidance = (sampling: Sampling): boolean =>
  stepsOfRuns({ steps: sampling.steps }).some((step) => isGuided(sampling, step))

/** Whether skip-layer guidance runs in a step, counted from 0. It needs guidance. */
export function skipsLayers(sampling: Sampling, step: number): boolean {
  const { steps, skip_layer_guidance: skip } = sampling
  return skip !== undefined && step > steps * skip.start && step < steps * skip.stop && isGuided(sampling, step)
}

/** Whether a ControlNet runs in a step, counted from 0. diffusers pipeline_stable_diffusion_3_controlnet.py `controlnet_keep` */
export const isControlled = ({ start = 0, stop = 1 }: ControlChoice, steps: number, step: number): boolean =>
  step / steps >= start && (step + 1) / steps <= stop

/** The number of ControlNets that run in a step. */
export const countControls = ({ steps, controls = [] }: Sampling, step: number): number =>
  controls.filter((choice) => isControlled(choice, steps, step)).length

/**
 * The work of a ControlNet relative to the denoiser. Those of SD3.5 Large have half of its blocks, each with one additional product and
 * without a text stream: 0.48 of the operations at 1024 × 1024.
 */
export const CONTROL_SHARE = 0.5

/** Evaluations of the denoiser in a run of a step: one for the prompt, and one each for guidance and skip-layer guidance. */
export const samplesOf = (sampling: Sampling, step: number): number =>
  1 + Number(isGuided(sampling, step)) + Number(skipsLayers(sampling, step))

/** The shares of the steps between which steps are reused, singly or, in the middle, in pairs. Velocities change most at both ends. */
const CACHED = { start: 0.2, stop: 0.9, pairs: { start: 0.35, stop: 0.65 } } as const

/**
 * The steps, counted from 0, that reuse the velocity of an earlier step (step caching, pipeline/velocity-cache.ts): at most two in a row,
 * between computed steps with the same guidance and ControlNets. None with `lcm`, which adds noise in each step. `first` is the first step
 * that runs.
 */
export function findReusedSteps(sampling: Sampling, first = findFirstReused(sampling)): ReadonlySet<number> {
  const { steps, sampler, cache } = sampling
  const reused = new Set<number>()
  if (cache !== 'fast' || sampler === 'lcm' || steps < LIMITS.cacheSteps) return reused
  const start = Math.max(first + 1, Math.ceil(CACHED.start * steps))
  const { pairs } = CACHED
  const describeNetworks = (step: number) => `${samplesOf(sampling, step)} ${countControls(sampling, step)}`
  for (let step = start; step < Math.trunc(CACHED.stop * steps); step++) {
    const [before, own, after] = [step - 1, step, step + 1].map(describeNetworks)
    const isPaired = step >= pairs.start * steps && step < pairs.stop * steps && !reused.has(step - 2)
    if (before === own && own === after && (isPaired || !reused.has(step - 1))) reused.add(step)
  }
  return reused
}

/** A step with evaluations of the denoiser: its zero-based index, its evaluations and its number of ControlNets. */
export type ComputedStep = { step: number; evaluations: number; controls: number }

/**
 * The uncached steps of one image. An evaluation with a ControlNet counts as 1 + `CONTROL_SHARE`. With several `devices`, only evaluations
 * of the busiest device count; jobs with ControlNets run on one device.
 */
export function listComputedSteps(sampling: Sampling, devices = 1): ComputedStep[] {
  const reused = findReusedSteps(sampling)
  const divisor = sampling.controls?.length ? 1 : devices
  const computed: ComputedStep[] = []
  for (const step of stepsOfRuns(sampling)) {
    if (reused.has(step)) continue
    const controls = countControls(sampling, step)
    const evaluations = Math.ceil(samplesOf(sampling, step) / divisor) * (1 + CONTROL_SHARE * controls)
    const last = computed.at(-1)
    if (last?.step === step) last.evaluations += evaluations
    else computed.push({ step, evaluations, controls })
  }
  return computed
}

/** The evaluations of the denoiser for one image: the sum over its computed steps. */
export const countEvaluations = (sampling: Sampling, devices = 1): number =>
  listComputedSteps(sampling, devices).reduce((sum, { evaluations }) => sum + evaluations, 0)

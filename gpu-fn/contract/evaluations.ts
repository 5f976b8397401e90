// The evaluations of the denoiser, which the price counts.
import type { ControlChoice } from './image-options.ts'
import type { JobRequest } from './requests.ts'

/** The number of steps that an input image of this strength skips. diffusers `StableDiffusion3Img2ImgPipeline.get_timesteps` */
export const firstStepOf = (steps: number, strength: number): number =>
  Math.trunc(Math.max(steps - Math.min(steps * strength, steps), 0))

/** The number of steps that a job runs for each image. `strength` is that of its input image, undefined without one. */
export const stepsRun = (steps: number, strength: number | undefined): number =>
  strength === undefined ? steps : steps - firstStepOf(steps, strength)

/** What determines the evaluations of the denoiser for one image. */
export type Sampling = Pick<
  JobRequest,
  'steps' | 'guidance_scale' | 'sampler' | 'guidance_interval' | 'skip_layer_guidance' | 'strength' | 'controls'
>

/** The step of each run of the denoiser: `heun` runs it at both ends of each step but the last. An input image skips the first steps. */
export function stepsOfRuns({
  steps,
  sampler,
  strength = 1,
}: Pick<Sampling, 'steps' | 'sampler' | 'strength'>): number[] {
  const runs = sampler === 'heun' ? 2 * steps - 1 : steps
  const first = firstStepOf(steps, strength)
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

/**
 * A ControlNet's share of the denoiser's work. SD3.5 Large's have half of its blocks, each with one product more and without a text stream:
 * 0.48 of the operations at 1024 × 1024.
 */
export const CONTROL_SHARE = 0.5

/**
 * Evaluations of the denoiser for one image: a run has one for the prompt, and one each for guidance and skip-layer guidance. With a
 * ControlNet, each counts 1 + `CONTROL_SHARE`.
 */
export function countEvaluations(sampling: Sampling): number {
  const { steps, controls = [] } = sampling
  const share = (step: number) =>
    1 + CONTROL_SHARE * controls.filter((choice) => isControlled(choice, steps, step)).length
  const ofStep = (step: number) =>
    (1 + Number(isGuided(sampling, step)) + Number(skipsLayers(sampling, step))) * share(step)
  return stepsOfRuns(sampling).reduce((sum, step) => sum + ofStep(step), 0)
}

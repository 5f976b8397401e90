// Guidance of the denoiser by a ControlNet. diffusers pipeline_stable_diffusion_3_controlnet.py `StableDiffusion3ControlNetPipeline`
import { type ControlChoice, isControlled } from '../contract.ts'
import type { ControlType } from '../manifest.ts'
import type { DeviceTensor, RunOptions, Session, Tensor } from '../runtime/session.ts'
import { encodePixels, type ToValue } from './input/encode.ts'
import type { Pipeline } from './pipeline.ts'

/** An open ControlNet, and the graphs of the denoiser for it. */
export type Controlnet = {
  type: ControlType
  /** The number of its blocks; each outputs a residual. */
  layers: number
  /** The number of the denoiser's residual inputs: one for each block but the last. */
  residuals: number
  conditioning: Session
  control: Session
  embedding: Session
  transformer: Session
}

/** A control image of the size of the result: interleaved 8-bit RGB [H, W, 3]. */
export type ControlImage = { pixels: Uint8Array }

/** The guidance of one request. */
export type Guidance = {
  controlnet: Controlnet
  /** The control image's latent [1, C, h, w]. */
  latent: Tensor
  scale: number
  /** Whether the ControlNet runs in a step, counted from 0. */
  isActive(step: number): boolean
}

/** Pixels of Canny edges as in training: 0.5 to 128. diffusers image_processor.py `SD3CannyImageProcessor` */
const computeCannyValue: ToValue = (byte) => Math.fround(Math.fround(Math.fround(byte / 255) * 255) * 0.5) + 0.5

/**
 * Encodes the control image. The latent is the distribution's mean, so that a seed determines the image; diffusers draws it with the global random
 * generator.
 */
export async function openGuidance(
  { vaeEncoder, plan, package: { manifest } }: Pipeline,
  controlnet: Controlnet,
  { pixels }: ControlImage,
  request: { steps: number; choice: ControlChoice; dims: readonly number[] },
  signal: AbortSignal,
): Promise<Guidance> {
  const { steps, choice, dims } = request
  if (!vaeEncoder) throw new RangeError(`${manifest.model} takes no control image: its package has no VAE encoder`)
  const { mean } = await encodePixels(vaeEncoder, pixels, dims, {
    ...{ tile: plan.tile, downsample: manifest.latent.downsample, signal },
    ...(controlnet.type === 'canny' && { toValue: computeCannyValue }),
  })
  return {
    controlnet,
    latent: { data: mean, dims },
    scale: choice.scale,
    isActive: (step) => isControlled(choice, steps, step),
  }
}

type StepInputs = { latent: Tensor; position?: Tensor } & Record<string, Tensor | DeviceTensor>

/** The velocity of one step with the ControlNet's residuals. `modulation`: the ControlNet's row. The second `latent`: that of the control image. */
export async function runGuided(
  { controlnet, scale }: Guidance,
  inputs: StepInputs,
  { modulation, latent: control }: { modulation: DeviceTensor; latent: Tensor },
  options: RunOptions,
): Promise<Record<string, Tensor>> {
  const { latent, position } = inputs
  const { tokens } = await controlnet.embedding.runOnDevice({ latent, ...(position && { position }) }, options)
  const given = { tokens: tokens!, control, modulation, scale: { data: Float32Array.of(scale), dims: [1] } }
  const residuals = await controlnet.control.runOnDevice(given, options).finally(() => tokens!.release())
  try {
    return await controlnet.transformer.run({ ...inputs, ...assign(residuals, controlnet) }, options)
  } finally {
    for (const residual of Object.values(residuals)) residual.release()
  }
}

/** The residual of each block but the last: each of the ControlNet's blocks guides an equal share of them. diffusers transformer_sd3.py `forward` */
function assign(outputs: Record<string, DeviceTensor>, { layers, residuals }: Controlnet) {
  const interval = (residuals + 1) / layers
  const entries = Array.from({ length: residuals }, (_, block) => {
    const residual = outputs[`residual_${Math.trunc(block / interval)}`]!
    return [`residual_${block}`, residual] as const
  })
  return Object.fromEntries(entries)
}

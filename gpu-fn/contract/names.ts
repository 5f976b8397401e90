// Versions, names and identifiers.
import * as z from 'zod'

export const PROTOCOL_VERSION = 1

/**
 * The tiers: the precision of the largest weights, whether packages have T5 (the text encoder for long prompts and for text in images),
 * and the default price in micro-dollars per megapixel-step.
 */
export const TIER_TABLE = {
  fp8: { precision: 'fp8', t5: true, price: 300 },
  'fp8-lite': { precision: 'fp8', t5: false, price: 240 },
  'fp8-int4': { precision: 'fp8-int4', t5: true, price: 270 },
  fp16: { precision: 'fp16', t5: true, price: 480 },
  fp32: { precision: 'fp32', t5: true, price: 900 },
} as const
export type Tier = keyof typeof TIER_TABLE
export const TIERS = Object.keys(TIER_TABLE) as [Tier, ...Tier[]]
export const hasT5 = (tier: Tier): boolean => TIER_TABLE[tier].t5
/** Whether packages have FP8 weights. */
export const hasFp8 = (tier: Tier): boolean => TIER_TABLE[tier].precision.startsWith('fp8')
/** Whether the denoiser has 4-bit weights. Adapters (LoRAs) cannot update these. */
export const has4BitWeights = (tier: Tier): boolean => TIER_TABLE[tier].precision === 'fp8-int4'
export const ROUTES = ['turbo', 'full'] as const
export const OUTPUT_FORMATS = ['png', 'jpeg', 'webp'] as const
/** Media type of each output format. */
export const CONTENT_TYPES = { png: 'image/png', jpeg: 'image/jpeg', webp: 'image/webp' } as const
export const TEXT_CONVENTIONS = ['diffusers'] as const
/** Update rules of a step, with ComfyUI's names; pipeline/schedulers/. The default is the package's. */
export const SAMPLERS = ['euler', 'dpmpp_2m', 'heun', 'lcm'] as const
/** Spacings of the noise levels, with ComfyUI's names. `normal` is that of diffusers, and the default. */
export const SCHEDULES = ['normal', 'simple', 'sgm_uniform', 'beta'] as const
/** Step caching; evaluations.ts `findReusedSteps`. The default is `off`. */
export const CACHES = ['off', 'fast'] as const
export type Route = (typeof ROUTES)[number]

/** Input images of a job, in the order of their bytes. */
export const INPUT_NAMES = ['image', 'mask', 'control'] as const
/** The ways to fit an input image of another shape to width × height. */
export const IMAGE_FITS = ['crop', 'pad', 'stretch'] as const
/** The parts of a mask that are repainted. Without a mask, `transparent` takes those of the input image. */
export const REPAINTS = ['white', 'black', 'transparent'] as const

/** A model's name, which becomes part of paths and settings. */
export const modelName = z.string().regex(/^[a-z0-9][a-z0-9-]{0,63}$/)
/**
 * Derives the ID of an adapter or a ControlNet from its file name or path: `loras/My_Style.v2.safetensors` is `my-style-v2`. May be empty. A
 * valid ID stays the same, so that requests reach every ID.
 */
export function additionIdOf(file: string): string {
  const last = file.split(/[/\\]/).findLast((part) => part !== '') ?? ''
  const name = last.replace(/\.safetensors$/i, '')
  if (modelName.safeParse(name).success) return name
  const words = name.toLowerCase().split(/[^a-z0-9]+/)
  return words.filter(Boolean).join('-').slice(0, 64)
}
export const jobId = z.string().regex(/^[A-Za-z0-9_-]{1,64}$/)
/** A SHA-256 in lower-case hex. Every schema of a digest uses this one, because digests become parts of paths and keys. */
export const sha256Hex = z.string().regex(/^[0-9a-f]{64}$/, 'must be a SHA-256 in lower-case hex')

// The variants of SD3.5 as data. Sources: the published config.json files and Stability-AI/sd3.5 sd3_infer.py @ fbf8f48.

import { CheckpointError } from '../../compile/checkpoint/error.ts'
import type { Checkpoint } from '../../compile/checkpoint/tensor.ts'
import type { MMDiTConfig } from './mmdit.ts'

export type Defaults = {
  readonly steps: number
  readonly guidanceScale: number
  readonly shift: number
  /** Width and height in latents. */
  readonly sampleSize: number
  /** License of the weights, in a sentence. */
  readonly license: string
}
export type Variant = MMDiTConfig & Defaults & { readonly name: string }

const STABILITY = 'Weights derived from Stable Diffusion 3.5 are under the Stability AI Community License; see NOTICE.'
const OCTET = 'The weights are licensed under Apache-2.0; they were trained on Noto Color Emoji (OFL-1.1). See NOTICE.'
const UNKNOWN = 'The weights are licensed by their author; see NOTICE.'

const common = {
  patchSize: 2,
  inChannels: 16,
  outChannels: 16,
  contextWidth: 4096,
  pooledWidth: 2048,
  qkNorm: true,
  shift: 3,
  sampleSize: 128,
  license: STABILITY,
}
const large = { ...common, depth: 38, width: 2432, heads: 38, positionMax: 192, dualAttention: [] }
const medium = {
  ...common,
  depth: 24,
  width: 1536,
  heads: 24,
  positionMax: 384,
  dualAttention: Array.from({ length: 13 }, (_, i) => i),
}
/** The built-in model: Medium's architecture at 256 × 256 pixels. */
const nano = {
  ...common,
  depth: 6,
  width: 192,
  heads: 3,
  positionMax: 32,
  contextWidth: 192,
  pooledWidth: 192,
  dualAttention: [0, 1],
  sampleSize: 32,
  license: OCTET,
}

/** Variants of one shape are adjacent; the first is the default for a checkpoint of that shape, unless its path names another. */
export const VARIANTS: readonly Variant[] = [
  { name: 'large', ...large, steps: 28, guidanceScale: 3.5 },
  { name: 'large-turbo', ...large, steps: 4, guidanceScale: 1 },
  { name: 'medium', ...medium, steps: 40, guidanceScale: 4.5 },
  { name: 'flash', ...medium, steps: 4, guidanceScale: 1 },
  { name: 'nano', ...nano, steps: 28, guidanceScale: 5 },
  { name: 'nano-turbo', ...nano, steps: 4, guidanceScale: 1 },
]

const SHAPE_KEYS = [
  'depth',
  'width',
  'heads',
  'patchSize',
  'inChannels',
  'outChannels',
  'positionMax',
  'contextWidth',
  'pooledWidth',
  'qkNorm',
  'dualAttention',
] as const
/**
 * The variant with the derived configuration. `requested` selects among variants of one shape; `custom`, or a diffusers directory, which has
 * its own configuration, allows shapes without a variant. Throws CheckpointError.
 */
export function variantOf(
  derived: MMDiTConfig,
  checkpoint: Checkpoint,
  paths: readonly string[],
  requested?: string,
): { name: string; defaults: Defaults } {
  const fitting = VARIANTS.filter((variant) => differences(variant, derived).length === 0)
  if (requested !== undefined && requested !== 'custom') return requireVariant(requested, derived)
  const [first] = fitting
  if (first && requested === undefined) {
    const hint = /turbo/i.test(paths.join()) ? 'turbo' : /flash/i.test(paths.join()) ? 'flash' : undefined
    const variant = fitting.find(({ name }) => hint && name.includes(hint)) ?? first
    return { name: variant.name, defaults: variant }
  }
  if (requested === 'custom' || checkpoint.layout === 'diffusers') {
    const sampleSize = sampleSizeOf(checkpoint.config.transformer?.sample_size, derived)
    return {
      name: 'custom',
      defaults: { steps: 28, guidanceScale: 3.5, shift: common.shift, sampleSize, license: UNKNOWN },
    }
  }
  const nearest = VARIANTS.map((variant) => ({ variant, differs: differences(variant, derived) })).sort(
    (a, b) => a.differs.length - b.differs.length,
  )[0]!
  throw new CheckpointError(
    'transformer',
    `matches no variant of SD3.5; the nearest is ${nearest.variant.name}, but ${nearest.differs.join(', ')}. --variant custom compiles it anyway`,
  )
}

/** The sample_size of config.json, if the model supports it. */
function sampleSizeOf(given: unknown, { patchSize, positionMax }: MMDiTConfig): number {
  const largest = patchSize * positionMax
  if (given === undefined) return Math.min(common.sampleSize, largest)
  if (typeof given === 'number' && given > 0 && given <= largest && given % patchSize === 0) return given
  const allowed = `multiples of ${patchSize} up to ${largest}`
  throw new CheckpointError('transformer/config.json', `sample_size is ${JSON.stringify(given)}; allowed: ${allowed}`)
}

function requireVariant(requested: string, derived: MMDiTConfig): { name: string; defaults: Defaults } {
  const variant = VARIANTS.find(({ name }) => name === requested)
  if (!variant)
    throw new CheckpointError(
      '--variant',
      `${requested} is unknown; allowed: ${VARIANTS.map(({ name }) => name).join(', ')}, custom`,
    )
  const differs = differences(variant, derived)
  if (differs.length > 0) throw new CheckpointError('transformer', `is not ${requested}: ${differs.join(', ')}`)
  return { name: requested, defaults: variant }
}

function differences(variant: Variant, derived: MMDiTConfig): string[] {
  const show = (value: unknown) => (Array.isArray(value) && value.length === 0 ? 'none' : String(value))
  return SHAPE_KEYS.filter((key) => String(variant[key]) !== String(derived[key])).map(
    (key) => `${key} is ${show(derived[key])} and not ${show(variant[key])}`,
  )
}

// The variants of SD3.5 as data. Sources: the published config.json files and Stability-AI/sd3.5 sd3_infer.py @ fbf8f48; for the
// fine-tunes of few steps, the cards of tensorart/stable-diffusion-3.5-large-TurboX and tensorart/stable-diffusion-3.5-medium-turbo.

import { CheckpointError, quote } from '../../compile/checkpoint/error.ts'
import type { Source } from '../../compile/checkpoint/tensor.ts'
import { show } from './configurations.ts'
import type { MMDiTConfig } from './networks/mmdit.ts'

export type Defaults = {
  readonly steps: number
  readonly guidanceScale: number
  readonly shift: number
  /** Width and height in latents. */
  readonly sampleSize: number
  /** License of the weights, in a sentence. */
  readonly license: string
  /** The blocks that skip-layer guidance skips. */
  readonly skipLayers?: readonly number[]
}
export type Variant = MMDiTConfig &
  Defaults & {
    readonly name: string
    /** Distinguishes variants of one shape, by the name of the transformer's file or of its checkpoint's folder. */
    readonly pattern?: RegExp
  }

export type Choice = {
  readonly name: string
  readonly defaults: Defaults
  /** The reason for the choice. */
  readonly reason: string
}

const STABILITY =
  'Weights derived from Stable Diffusion 3 and 3.5 are under the Stability AI Community License; see NOTICE.'
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
/** Stable Diffusion 3 Medium: neither dual attention nor norms of queries and keys. */
const sd3 = { ...medium, positionMax: 192, dualAttention: [], qkNorm: false }
const CUSTOM = { steps: 28, guidanceScale: 3.5, shift: common.shift, sampleSize: common.sampleSize, license: UNKNOWN }
/** The built-in model: Medium's architecture at 256 × 256 pixels. */
const nano = {
  ...common,
  depth: 8,
  width: 192,
  heads: 3,
  positionMax: 32,
  contextWidth: 192,
  pooledWidth: 192,
  dualAttention: [0, 1],
  sampleSize: 32,
  license: OCTET,
}

const [turbo, turbox, flash] = [/turbo/i, /turbo[-_ ]?x/i, /flash/i]

/**
 * Without public weights, the row of Stable Diffusion 3.5 Flash is unconfirmed: arXiv 2509.21318 states Medium's network, 2 or 4 steps and
 * no guidance.
 */
const FLASH = { name: 'flash', ...medium, steps: 4, guidanceScale: 1, pattern: flash }

/** The variant without a pattern is the default of its shape. Among the others, the first match applies. */
export const VARIANTS: readonly Variant[] = [
  { name: 'large', ...large, steps: 28, guidanceScale: 3.5 },
  { name: 'large-turbox', ...large, steps: 8, guidanceScale: 1, shift: 5, pattern: turbox },
  { name: 'large-turbo', ...large, steps: 4, guidanceScale: 1, pattern: turbo },
  { name: 'medium', ...medium, steps: 40, guidanceScale: 4.5, skipLayers: [7, 8, 9] },
  { name: 'medium-turbo', ...medium, steps: 8, guidanceScale: 1.5, pattern: turbo },
  FLASH,
  { name: 'sd3-medium', ...sd3, steps: 28, guidanceScale: 7 },
  { name: 'nano', ...nano, steps: 28, guidanceScale: 7 },
  { name: 'nano-turbo', ...nano, steps: 4, guidanceScale: 1, pattern: turbo },
  { name: 'nano-flash', ...nano, steps: 2, guidanceScale: 1, pattern: flash },
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
/** The variant of `chooseVariant`, with the sample_size of config.json if there is one. Throws CheckpointError. */
export function variantOf(
  derived: MMDiTConfig,
  source: Source,
  config: Readonly<Record<string, unknown>> = {},
  requested?: string,
): Choice {
  const choice = chooseVariant(derived, source, requested)
  const sampleSize = sampleSizeOf(config.sample_size, derived, choice.defaults.sampleSize)
  return { ...choice, defaults: { ...choice.defaults, sampleSize } }
}

/**
 * The variant with the derived configuration. `requested` or else the name of the transformer's file or folder selects among variants of one
 * shape; `custom`, or the diffusers layout, which has its own configuration, allows shapes without a variant. Throws CheckpointError.
 */
function chooseVariant(derived: MMDiTConfig, { layout, name }: Source, requested?: string): Choice {
  if (requested !== undefined && requested !== 'custom') return requireVariant(requested, derived)
  const fitting = VARIANTS.filter((variant) => listDifferences(variant, derived).length === 0)
  if (fitting.length > 0 && requested === undefined) return chooseByName(fitting, name)
  if (requested === 'custom' || layout === 'diffusers') {
    const reason = requested ? '--variant selects it' : 'no other variant has its shape'
    return { name: 'custom', reason, defaults: CUSTOM }
  }
  const nearest = VARIANTS.map((variant) => ({ variant, differs: listDifferences(variant, derived) })).sort(
    (a, b) => a.differs.length - b.differs.length,
  )[0]!
  throw new CheckpointError(
    'transformer',
    `matches no variant of SD3.5; the nearest is ${nearest.variant.name}, but ${nearest.differs.join(', ')}. --variant custom compiles it anyway`,
  )
}

function chooseByName(fitting: readonly Variant[], name: string): Choice {
  const named = fitting.find(({ pattern }) => pattern?.test(name))
  if (named) return { name: named.name, defaults: named, reason: `the name ${quote(name)} matches ${named.pattern}` }
  const [first, ...others] = fitting.toSorted((a, b) => Number(Boolean(a.pattern)) - Number(Boolean(b.pattern)))
  const options = others.length > 0 ? `; --variant selects ${others.map((other) => other.name).join(' or ')}` : ''
  const reason = `its shape, and the name ${quote(name)} matches no other variant of this shape${options}`
  return { name: first!.name, defaults: first!, reason }
}

/** The sample_size of config.json, if the model supports it; without one, that of the variant. */
function sampleSizeOf(given: unknown, { patchSize, positionMax }: MMDiTConfig, published: number): number {
  const largest = patchSize * positionMax
  if (given === undefined) return Math.min(published, largest)
  if (typeof given === 'number' && given > 0 && given <= largest && given % patchSize === 0) return given
  const allowed = `multiples of ${patchSize} up to ${largest}`
  throw new CheckpointError('transformer/config.json', `sample_size is ${show(given)}; allowed: ${allowed}`)
}

function requireVariant(requested: string, derived: MMDiTConfig): Choice {
  const variant = VARIANTS.find(({ name }) => name === requested)
  if (!variant)
    throw new CheckpointError(
      '--variant',
      `${requested} is unknown; allowed: ${VARIANTS.map(({ name }) => name).join(', ')}, custom`,
    )
  const differs = listDifferences(variant, derived)
  if (differs.length > 0) throw new CheckpointError('transformer', `is not ${requested}: ${differs.join(', ')}`)
  return { name: requested, defaults: variant, reason: '--variant selects it' }
}

function listDifferences(variant: Variant, derived: MMDiTConfig): string[] {
  const show = (value: unknown) => (Array.isArray(value) && value.length === 0 ? 'none' : String(value))
  return SHAPE_KEYS.filter((key) => String(variant[key]) !== String(derived[key])).map(
    (key) => `${key} is ${show(derived[key])} and not ${show(variant[key])}`,
  )
}

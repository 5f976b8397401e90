// The variants of SD3.5 as data. Sources: the published config.json files and Stability-AI/sd3.5 sd3_infer.py @ fbf8f48.
import type { Checkpoint, Tensor } from '../compile/checkpoint.ts'
import { CheckpointError } from '../compile/checkpoint-error.ts'
import type { MMDiTConfig } from './mmdit.ts'

export type Defaults = {
  readonly steps: number
  readonly guidanceScale: number
  readonly shift: number
  readonly size: number
}
export type Variant = MMDiTConfig & Defaults & { readonly name: string }

const common = {
  patchSize: 2,
  inChannels: 16,
  outChannels: 16,
  contextWidth: 4096,
  pooledWidth: 2048,
  qkNorm: true,
  shift: 3,
  size: 1024,
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

/** Variants of one shape stand together; the first is what a checkpoint of that shape is taken for unless its name says otherwise. */
export const VARIANTS: readonly Variant[] = [
  { name: 'large', ...large, steps: 28, guidanceScale: 3.5 },
  { name: 'large-turbo', ...large, steps: 4, guidanceScale: 1 },
  { name: 'medium', ...medium, steps: 40, guidanceScale: 4.5 },
  { name: 'flash', ...medium, steps: 4, guidanceScale: 1 },
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
/** Keys of transformer/config.json and what they are called here. */
const CONFIG_KEYS: Record<string, keyof MMDiTConfig> = {
  num_layers: 'depth',
  num_attention_heads: 'heads',
  patch_size: 'patchSize',
  in_channels: 'inChannels',
  pos_embed_max_size: 'positionMax',
  joint_attention_dim: 'contextWidth',
  pooled_projection_dim: 'pooledWidth',
}

type Tensors = ReadonlyMap<string, Tensor>

export function shapeOf(network: string, tensors: Tensors, name: string): readonly number[] {
  const tensor = tensors.get(name)
  if (!tensor) throw new CheckpointError(network, `tensor ${name} is missing`)
  return tensor.shape
}

export const countOf = (tensors: Tensors, pattern: RegExp) =>
  new Set([...tensors.keys()].map((name) => pattern.exec(name)?.[1]).filter((index) => index !== undefined)).size

/**
 * The transformer's configuration from its tensors, as sd3_impls.py `BaseModel.__init__` does. A config.json must agree with
 * them; without one an attention head is 64 wide unless QK-norm tells.
 */
export function deriveMMDiT(tensors: Tensors, config: Readonly<Record<string, unknown>> = {}): MMDiTConfig {
  const shape = (name: string) => shapeOf('transformer', tensors, name)
  const [width, inChannels, patchSize] = shape('x_embedder.proj.weight') as [number, number, number]
  const [, positions] = shape('pos_embed') as [number, number]
  const norm = tensors.get('joint_blocks.0.x_block.attn.ln_q.weight')
  const headWidth = norm?.shape[0] ?? numberIn(config, 'attention_head_dim') ?? 64
  const [outWidth] = shape('final_layer.linear.weight') as [number]
  const derived: MMDiTConfig = {
    depth: countOf(tensors, /^joint_blocks\.(\d+)\./),
    width,
    heads: width / headWidth,
    patchSize,
    inChannels,
    outChannels: outWidth / patchSize ** 2,
    positionMax: Math.sqrt(positions),
    contextWidth: shape('context_embedder.weight')[1]!,
    pooledWidth: shape('y_embedder.mlp.0.weight')[1]!,
    qkNorm: norm !== undefined,
    dualAttention: [...tensors.keys()]
      .flatMap((name) => /^joint_blocks\.(\d+)\.x_block\.attn2\.qkv\.weight$/.exec(name)?.[1] ?? [])
      .map(Number)
      .sort((a, b) => a - b),
  }
  for (const key of ['heads', 'positionMax', 'outChannels'] as const) {
    if (!Number.isInteger(derived[key]))
      throw new CheckpointError('transformer', `${key} works out as ${derived[key]}, which is no whole number`)
  }
  assertAgrees(derived, config)
  return derived
}

const numberIn = (config: Readonly<Record<string, unknown>>, key: string) =>
  typeof config[key] === 'number' ? config[key] : undefined

function assertAgrees(derived: MMDiTConfig, config: Readonly<Record<string, unknown>>): void {
  for (const [key, name] of Object.entries(CONFIG_KEYS)) {
    const given = numberIn(config, key)
    if (given !== undefined && given !== derived[name]) {
      throw new CheckpointError('transformer/config.json', `${key} is ${given}, but the tensors have ${derived[name]}`)
    }
  }
}

/**
 * The variant whose row in the table equals the derived configuration. `asked` chooses among variants of one shape; `custom`
 * (or a diffusers directory, which describes itself) admits shapes that the table does not have.
 */
export function variantOf(
  derived: MMDiTConfig,
  checkpoint: Checkpoint,
  paths: readonly string[],
  asked?: string,
): { name: string; config: MMDiTConfig; defaults: Defaults } {
  const fitting = VARIANTS.filter((variant) => differences(variant, derived).length === 0)
  if (asked !== undefined && asked !== 'custom') return { ...named(asked, derived), config: derived }
  const [first] = fitting
  if (first && asked === undefined) {
    const hint = /turbo/i.test(paths.join()) ? 'turbo' : /flash/i.test(paths.join()) ? 'flash' : undefined
    const variant = fitting.find(({ name }) => hint && name.includes(hint)) ?? first
    return { name: variant.name, config: derived, defaults: variant }
  }
  if (asked === 'custom' || checkpoint.layout === 'diffusers') {
    const size = 8 * (numberIn(checkpoint.config.transformer ?? {}, 'sample_size') ?? 128)
    return { name: 'custom', config: derived, defaults: { steps: 28, guidanceScale: 3.5, shift: common.shift, size } }
  }
  const nearest = VARIANTS.map((variant) => ({ variant, differs: differences(variant, derived) })).sort(
    (a, b) => a.differs.length - b.differs.length,
  )[0]!
  throw new CheckpointError(
    'transformer',
    `fits no variant of SD3.5; nearest is ${nearest.variant.name}, but ${nearest.differs.join(', ')}. --variant custom compiles it all the same`,
  )
}

function named(asked: string, derived: MMDiTConfig): { name: string; defaults: Defaults } {
  const variant = VARIANTS.find(({ name }) => name === asked)
  if (!variant)
    throw new CheckpointError(
      '--variant',
      `${asked} is unknown; allowed: ${VARIANTS.map(({ name }) => name).join(', ')}, custom`,
    )
  const differs = differences(variant, derived)
  if (differs.length > 0) throw new CheckpointError('transformer', `is no ${asked}: ${differs.join(', ')}`)
  return { name: asked, defaults: variant }
}

function differences(variant: Variant, derived: MMDiTConfig): string[] {
  const show = (value: unknown) => (Array.isArray(value) && value.length === 0 ? 'none' : String(value))
  return SHAPE_KEYS.filter((key) => String(variant[key]) !== String(derived[key])).map(
    (key) => `${key} is ${show(derived[key])} and not ${show(variant[key])}`,
  )
}

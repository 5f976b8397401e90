// Derives the configuration of every network from its tensors, with which its config.json must agree. Settings that tensors do not determine
// are those of config.json; for a setting that config.json omits, the default of its class in diffusers or transformers; and the published
// values without config.json, as in the single-file layout.

import { CheckpointError } from '../../compile/checkpoint/error.ts'
import type { Tensor } from '../../compile/checkpoint/tensor.ts'
import type { Activation } from '../../compile/graph/layer-types.ts'
import { type Manifest, SCHEDULER_NAMES, type SchedulerName } from '../../manifest.ts'
import { type ClipTextConfig, OPEN_CLIP_PROJECTION } from './networks/clip-text.ts'
import type { MMDiTConfig } from './networks/mmdit.ts'
import type { T5Config } from './networks/t5-encoder.ts'
import type { VaeConfig } from './networks/vae-blocks.ts'

type Tensors = ReadonlyMap<string, Tensor>
export type Json = Readonly<Record<string, unknown>>

/** The shape of a tensor. Throws CheckpointError if it is missing. */
export function shapeOf(network: string, tensors: Tensors, name: string): readonly number[] {
  const tensor = tensors.get(name)
  if (!tensor) throw new CheckpointError(network, `tensor ${name} is missing`)
  return tensor.shape
}

const indicesOf = (tensors: Tensors, pattern: RegExp) =>
  [...new Set([...tensors.keys()].flatMap((name) => pattern.exec(name)?.[1] ?? []))].map(Number).sort((a, b) => a - b)

export const countOf = (tensors: Tensors, pattern: RegExp) => indicesOf(tensors, pattern).length

/** A setting in a message, of bounded length. */
export function show(value: unknown): string {
  const text = value === undefined ? 'missing' : JSON.stringify(value)
  return text.length > 120 ? `${text.slice(0, 120)}…` : text
}

/** Throws CheckpointError if config.json contradicts the tensors. */
export function assertAgrees(network: string, config: Json | undefined, derived: Json): void {
  for (const [key, value] of Object.entries(derived)) {
    const given = config?.[key]
    if (given !== undefined && value !== undefined && JSON.stringify(given) !== JSON.stringify(value)) {
      const problem = `${key} is ${show(given)}, but the tensors have ${show(value)}`
      throw new CheckpointError(`${network}/config.json`, problem)
    }
  }
}

/** Throws CheckpointError if the setting `key` has a value outside `allowed`. */
export function assertOneOf(file: string, config: Json | undefined, key: string, allowed: readonly unknown[]): void {
  if (config?.[key] === undefined || allowed.includes(config[key])) return
  const names = allowed.map((value) => JSON.stringify(value)).join(', ')
  throw new CheckpointError(file, `${key} is ${show(config[key])}; allowed: ${names}`)
}

/** `published`: the value without a config.json. `omitted`: the value if config.json omits the setting; undefined if it is required. */
type Fallback = { published: number; omitted: number | undefined }

/** A positive setting. */
function numberOf(file: string, config: Json | undefined, key: string, { published, omitted }: Fallback): number {
  const given = config ? (config[key] === undefined ? omitted : config[key]) : published
  if (typeof given === 'number' && given > 0 && given < 1e6) return given
  throw new CheckpointError(file, `${key} is ${show(given)}; it must be a number above 0`)
}

function integerOf(file: string, config: Json | undefined, key: string, otherwise: Fallback): number {
  const given = numberOf(file, config, key, otherwise)
  if (Number.isInteger(given)) return given
  throw new CheckpointError(file, `${key} is ${given}; it must be an integer`)
}

const createFixedDefault = (value: number): Fallback => ({ published: value, omitted: value })

/** Throws CheckpointError unless the value is a positive integer. */
export function requireInteger(network: string, what: string, value: number): number {
  if (Number.isInteger(value) && value > 0) return value
  throw new CheckpointError(network, `${what} is ${value}, which is not an integer`)
}

/** As in sd3_impls.py `BaseModel.__init__`; without QK-norm and config.json an attention head is 64 wide. */
export function deriveMMDiT(tensors: Tensors, config?: Json): MMDiTConfig {
  const shape = (name: string) => shapeOf('transformer', tensors, name)
  const [width, inChannels, patchSize] = shape('x_embedder.proj.weight') as [number, number, number]
  const headWidth =
    tensors.get('joint_blocks.0.x_block.attn.ln_q.weight')?.shape[0] ??
    numberOf('transformer/config.json', config, 'attention_head_dim', createFixedDefault(64))
  const derived: MMDiTConfig = {
    depth: countOf(tensors, /^joint_blocks\.(\d+)\./),
    width,
    heads: requireInteger('transformer', 'the number of attention heads', width / headWidth),
    patchSize,
    inChannels,
    outChannels: requireInteger('transformer', 'out_channels', shape('final_layer.linear.weight')[0]! / patchSize ** 2),
    positionMax: readPositionMax(shape('pos_embed'), width),
    contextWidth: shape('context_embedder.weight')[1]!,
    pooledWidth: shape('y_embedder.mlp.0.weight')[1]!,
    qkNorm: tensors.has('joint_blocks.0.x_block.attn.ln_q.weight'),
    dualAttention: indicesOf(tensors, /^joint_blocks\.(\d+)\.x_block\.attn2\.qkv\.weight$/),
  }
  assertAgrees('transformer', config, {
    num_layers: derived.depth,
    num_attention_heads: derived.heads,
    attention_head_dim: headWidth,
    patch_size: patchSize,
    in_channels: inChannels,
    pos_embed_max_size: derived.positionMax,
    joint_attention_dim: derived.contextWidth,
    pooled_projection_dim: derived.pooledWidth,
    caption_projection_dim: width,
    ...(config?.out_channels !== null && { out_channels: derived.outChannels }),
    qk_norm: derived.qkNorm ? 'rms_norm' : null,
    dual_attention_layers: derived.dualAttention,
  })
  return derived
}

/** Side of the position table [1, side², D]. */
function readPositionMax(table: readonly number[], width: number): number {
  const side = Math.sqrt(table[1] ?? 0)
  if (Number.isInteger(side) && side > 0 && String(table) === String([1, side ** 2, width])) return side
  throw new CheckpointError(
    'transformer',
    `tensor pos_embed is [${table.join(', ')}]; the model requires [1, side², ${width}]`,
  )
}

const ACTIVATIONS: Record<string, Activation> = {
  quick_gelu: 'quick_gelu',
  gelu: 'gelu',
  gelu_new: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
}

/** The rows of SD3.5's prompts; longer encoders such as Long-CLIP produce different prompt embeddings. */
const CLIP_TOKENS = 77

/** As published: heads of 64, quick GELU for CLIP-L and erf GELU for bigG. transformers configuration_clip.py `CLIPTextConfig`. */
export function deriveClip(network: 'clip_l' | 'clip_g', tensors: Tensors, given?: Json): ClipTextConfig {
  const file = `${network}/config.json`
  const config = readTextConfig(given)
  const shape = (name: string) => shapeOf(network, tensors, name)
  const [tokens, width] = shape('text_model.embeddings.position_embedding.weight') as [number, number]
  const [vocabulary] = shape('text_model.embeddings.token_embedding.weight') as [number]
  if (tokens !== CLIP_TOKENS)
    throw new CheckpointError(network, `has ${tokens} positions; the text encoders of SD3.5 have ${CLIP_TOKENS}`)
  const layers = countOf(tensors, /^text_model\.encoder\.layers\.(\d+)\./)
  const heads = requireInteger(
    network,
    'the number of attention heads',
    numberOf(file, config, 'num_attention_heads', { published: width / 64, omitted: 8 }),
  )
  requireInteger(network, 'the width of an attention head', width / heads)
  const pooledWidth = pooledWidthOf(network, tensors, width)
  assertAgrees(network, config, {
    hidden_size: width,
    num_hidden_layers: layers,
    max_position_embeddings: tokens,
    vocab_size: vocabulary,
    intermediate_size: tensors.get('text_model.encoder.layers.0.mlp.fc1.weight')?.shape[0],
    projection_dim: tensors.has(PROJECTION) ? pooledWidth : undefined,
  })
  assertOneOf(file, config, 'hidden_act', Object.keys(ACTIVATIONS))
  const published = network === 'clip_l' ? 'quick_gelu' : 'gelu'
  const activation = ACTIVATIONS[String(config ? (config.hidden_act ?? 'quick_gelu') : published)]!
  const endToken = integerOf(file, config, 'eos_token_id', { published: 2, omitted: 49407 })
  const epsilon = numberOf(file, config, 'layer_norm_eps', createFixedDefault(1e-5))
  const pooling = { pooledWidth, endToken: endToken === 2 ? null : endToken }
  return { width, layers, heads, tokens, vocabulary, activation, epsilon, ...pooling }
}

const PROJECTION = 'text_projection.weight'

/** The published CLIP-L file lacks its projection, which is the identity; bigG's is not. */
function pooledWidthOf(network: 'clip_l' | 'clip_g', tensors: Tensors, width: number): number {
  if (tensors.has(OPEN_CLIP_PROJECTION)) return shapeOf(network, tensors, OPEN_CLIP_PROJECTION)[1]!
  if (network === 'clip_l' && !tensors.has(PROJECTION)) return width
  return shapeOf(network, tensors, PROJECTION)[0]!
}

/** The settings of the text tower in the config.json of a whole CLIP. */
function readTextConfig(config: Json | undefined): Json | undefined {
  const { text_config: text, projection_dim } = config ?? {}
  if (typeof text !== 'object' || text === null) return config
  return { ...text, ...(projection_dim !== undefined && { projection_dim }) }
}

/** transformers configuration_t5.py `T5Config`, whose own feed-forward layers are not those of T5 v1.1. */
export function deriveT5(tensors: Tensors, config?: Json): T5Config {
  const file = 't5/config.json'
  const attention = 'encoder.block.0.layer.0.SelfAttention'
  const [vocabulary, width] = shapeOf('t5', tensors, 'shared.weight') as [number, number]
  const [buckets, heads] = shapeOf('t5', tensors, `${attention}.relative_attention_bias.weight`) as [number, number]
  const layers = countOf(tensors, /^encoder\.block\.(\d+)\./)
  requireInteger('t5', 'half of the position buckets', buckets / 4)
  const headWidth = requireInteger('t5', 'd_kv', shapeOf('t5', tensors, `${attention}.q.weight`)[0]! / heads)
  assertAgrees('t5', config, {
    d_model: width,
    d_kv: headWidth,
    d_ff: tensors.get('encoder.block.0.layer.1.DenseReluDense.wi_0.weight')?.shape[0],
    num_heads: heads,
    num_layers: layers,
    vocab_size: vocabulary,
    relative_attention_num_buckets: buckets,
  })
  if (config) assertOneOf(file, { feed_forward_proj: 'relu', ...config }, 'feed_forward_proj', ['gated-gelu'])
  assertOneOf(file, config, 'dense_act_fn', ['gelu_new'])
  assertOneOf(file, config, 'is_gated_act', [true])
  const maxDistance = integerOf(file, config, 'relative_attention_max_distance', createFixedDefault(128))
  const epsilon = numberOf(file, config, 'layer_norm_epsilon', createFixedDefault(1e-6))
  return { width, layers, heads, headWidth, vocabulary, buckets, maxDistance, epsilon }
}

/** diffusers autoencoder_kl.py `AutoencoderKL`. Its defaults of the two factors are those of SD1.5, so config.json must have them. */
export function deriveVae(tensors: Tensors, config?: Json): VaeConfig {
  const file = 'vae/config.json'
  const [channels, latentChannels] = shapeOf('vae', tensors, 'decoder.conv_in.weight') as [number, number]
  const groups = integerOf(file, config, 'norm_num_groups', createFixedDefault(32))
  requireInteger('vae', `${channels} channels in ${groups} norm groups`, channels / groups)
  const levels = countOf(tensors, /^decoder\.up\.(\d+)\./)
  const blocksPerLevel = countOf(tensors, /^decoder\.up\.0\.block\.(\d+)\./)
  assertAgrees('vae', config, {
    latent_channels: latentChannels,
    layers_per_block: blocksPerLevel - 1,
    block_out_channels: Array.from(
      { length: levels },
      (_, level) => shapeOf('vae', tensors, `decoder.up.${level}.block.0.conv1.weight`)[0],
    ),
    mid_block_add_attention: tensors.has('decoder.mid.attn_1.q.weight'),
    use_post_quant_conv: tensors.has('post_quant_conv.weight'),
  })
  assertOneOf(file, config, 'act_fn', ['silu'])
  assertOneOf(file, config, 'latents_mean', [null])
  assertOneOf(file, config, 'latents_std', [null])
  const scalingFactor = numberOf(file, config, 'scaling_factor', { published: 1.5305, omitted: undefined })
  const encoderBlocksPerLevel = tensors.has('encoder.conv_in.weight')
    ? countOf(tensors, /^encoder\.down\.0\.block\.(\d+)\./)
    : null
  const scale = { scalingFactor, shiftFactor: shiftFactor(file, config) }
  return { latentChannels, levels, blocksPerLevel, encoderBlocksPerLevel, groups, ...scale }
}

function shiftFactor(file: string, config: Json | undefined): number {
  const given = config ? config.shift_factor : 0.0609
  if (typeof given === 'number' && Math.abs(given) < 1e6) return given
  throw new CheckpointError(file, `shift_factor is ${show(given)}; it must be a number`)
}

/** Spacings of diffusers' flow schedulers, which are settings named `use_…_sigmas`. */
const SPACINGS = ['karras', 'exponential', 'beta'] as const

/** Diffusers' own default shift is 1; without a scheduler's config it is the variant's. */
export function deriveScheduler(config: Json | undefined, variantShift: number): Manifest['scheduler'] {
  const file = 'scheduler/scheduler_config.json'
  if (!config) return { name: SCHEDULER_NAMES[0], shift: variantShift, num_train_timesteps: 1000 }
  assertOneOf(file, config, '_class_name', SCHEDULER_NAMES)
  for (const key of ['use_dynamic_shifting', 'invert_sigmas']) assertOneOf(file, config, key, [false, null])
  assertOneOf(file, config, 'scale_factors', [null])
  const spacing = SPACINGS.filter((name) => isSet(file, config, `use_${name}_sigmas`))
  if (spacing.length > 1) throw new CheckpointError(file, `has the spacings ${spacing.join(' and ')}; allowed: one`)
  const terminal = shiftTerminal(file, config.shift_terminal)
  return {
    name: isSet(file, config, 'stochastic_sampling') ? 'FlowMatchLCMScheduler' : readSchedulerName(config),
    shift: numberOf(file, config, 'shift', createFixedDefault(1)),
    num_train_timesteps: integerOf(file, config, 'num_train_timesteps', createFixedDefault(1000)),
    ...(terminal && { shift_terminal: terminal }),
    ...(spacing[0] && { spacing: spacing[0] }),
  }
}

const readSchedulerName = ({ _class_name }: Json) => (_class_name as SchedulerName | undefined) ?? SCHEDULER_NAMES[0]

function isSet(file: string, config: Json, key: string): boolean {
  assertOneOf(file, config, key, [true, false, null])
  return config[key] === true
}

/** A noise level below 1; 0 is none, as in diffusers. */
function shiftTerminal(file: string, given: unknown): number | null {
  if (given === undefined || given === null) return null
  if (typeof given === 'number' && given >= 0 && given < 1) return given
  throw new CheckpointError(file, `shift_terminal is ${show(given)}; it must be a number from 0 to below 1`)
}

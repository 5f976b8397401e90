// Writes infra/checkpoints/headers: the headers and JSON files of the published SD3.5 checkpoints, from their published shapes.
// node test/support/checkpoints/make-headers.ts
import { mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import { HEADERS, type HeaderFiles, type Layout, type PublishedModel } from '../../../infra/checkpoints/published.ts'
import { encodeSafetensorsHeader, type TensorShape } from '../../../infra/checkpoints/safetensors-header.ts'
import * as published from './published-shapes.ts'
import { createDiffusersVae, createStabilityVae } from './published-vae-shapes.ts'

/** Sizes at which the published files are cut into shards. */
const SHARD_BYTES = { transformer: 10e9, text_encoder_3: 5e9 }
/** Either 16-bit type is published; one of each covers both. */
const DTYPE: Record<Layout, TensorShape['dtype']> = { 'single-file': 'F16', diffusers: 'BF16' }

const createClipL = (projection: boolean) => published.clipText(768, 12, projection)
const createClipG = () => published.clipText(1280, 32, true)

function createSingleFile(name: PublishedModel): HeaderFiles {
  const addPrefix = (prefix: string, shapes: published.Shapes) =>
    [...shapes].map(([key, shape]) => [`${prefix}${key}`, shape] as const)
  const main = [
    ...addPrefix('model.diffusion_model.', published.createStabilityTransformer(published.VARIANTS[name])),
    ...addPrefix('first_stage_model.', createStabilityVae()),
  ]
  const file = `sd3.5_${name.replace('-', '_')}.safetensors`
  return {
    ...weights(file, main, 'single-file'),
    ...weights('text_encoders/clip_l.safetensors', createClipL(false), 'single-file'),
    ...weights('text_encoders/clip_g.safetensors', createClipG(), 'single-file'),
    ...weights('text_encoders/t5xxl_fp16.safetensors', published.t5Encoder(true), 'single-file'),
  }
}

function createDiffusers(name: PublishedModel): HeaderFiles {
  const variant = published.VARIANTS[name]
  const writeShards = (folder: keyof typeof SHARD_BYTES, stem: string, shapes: published.Shapes) =>
    createShards(`${folder}/${stem}`, shapes, SHARD_BYTES[folder])
  return {
    'transformer/config.json': createTransformerConfig(variant),
    ...writeShards('transformer', 'diffusion_pytorch_model', published.createDiffusersTransformer(variant)),
    'text_encoder/config.json': createClipConfig(768, 12, 12, 'quick_gelu'),
    ...weights('text_encoder/model.safetensors', createClipL(true), 'diffusers'),
    'text_encoder_2/config.json': createClipConfig(1280, 32, 20, 'gelu'),
    ...weights('text_encoder_2/model.safetensors', createClipG(), 'diffusers'),
    'text_encoder_3/config.json': T5_CONFIG,
    ...writeShards('text_encoder_3', 'model', published.t5Encoder(false)),
    'vae/config.json': VAE_CONFIG,
    ...weights('vae/diffusion_pytorch_model.safetensors', createDiffusersVae(), 'diffusers'),
    'scheduler/scheduler_config.json': SCHEDULER_CONFIG,
  }
}

type Entries = Iterable<readonly [name: string, shape: readonly number[]]>

function weights(file: string, shapes: Entries, layout: Layout): HeaderFiles {
  const sorted = [...shapes].sort(([a], [b]) => (a < b ? -1 : 1))
  const { header } = encodeSafetensorsHeader(sorted.map(([name, shape]) => ({ name, shape, dtype: DTYPE[layout] })))
  return { [file]: JSON.parse(header.subarray(8).toString()) }
}

function createShards(stem: string, shapes: published.Shapes, limit: number): HeaderFiles {
  const shards: [string, readonly number[]][][] = [[]]
  let filled = 0
  for (const entry of shapes) {
    const bytes = 2 * entry[1].reduce((product, axis) => product * axis, 1)
    if (filled + bytes > limit) {
      shards.push([])
      filled = 0
    }
    shards.at(-1)!.push(entry)
    filled += bytes
  }
  if (shards.length === 1) return weights(`${stem}.safetensors`, shapes, 'diffusers')
  const number = (i: number) => String(i).padStart(5, '0')
  const fileOf = (i: number) => `${stem}-${number(i + 1)}-of-${number(shards.length)}.safetensors`
  const weightMap = shards.flatMap((shard, i) => shard.map(([name]) => [name, path.basename(fileOf(i))] as const))
  return Object.assign(
    { [`${stem}.safetensors.index.json`]: { metadata: {}, weight_map: Object.fromEntries(weightMap) } },
    ...shards.map((shard, i) => weights(fileOf(i), shard, 'diffusers')),
  )
}

function createTransformerConfig({ depth, positions, dualAttention }: published.Variant) {
  return {
    _class_name: 'SD3Transformer2DModel',
    num_layers: depth,
    num_attention_heads: depth,
    attention_head_dim: 64,
    caption_projection_dim: 64 * depth,
    joint_attention_dim: 4096,
    pooled_projection_dim: 2048,
    in_channels: 16,
    out_channels: 16,
    patch_size: 2,
    sample_size: 128,
    pos_embed_max_size: positions,
    qk_norm: 'rms_norm',
    ...(dualAttention > 0 && { dual_attention_layers: Array.from({ length: dualAttention }, (_, i) => i) }),
  }
}

function createClipConfig(width: number, layers: number, heads: number, activation: string) {
  return {
    architectures: ['CLIPTextModelWithProjection'],
    hidden_size: width,
    intermediate_size: 4 * width,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    hidden_act: activation,
    max_position_embeddings: 77,
    vocab_size: 49408,
    layer_norm_eps: 1e-5,
    projection_dim: width,
    eos_token_id: 2,
    model_type: 'clip_text_model',
  }
}

const T5_CONFIG = {
  architectures: ['T5EncoderModel'],
  d_model: 4096,
  d_ff: 10240,
  d_kv: 64,
  num_layers: 24,
  num_heads: 64,
  vocab_size: 32128,
  feed_forward_proj: 'gated-gelu',
  layer_norm_epsilon: 1e-6,
  relative_attention_num_buckets: 32,
  relative_attention_max_distance: 128,
  model_type: 't5',
}

const VAE_CONFIG = {
  _class_name: 'AutoencoderKL',
  in_channels: 3,
  out_channels: 3,
  latent_channels: 16,
  block_out_channels: [128, 256, 512, 512],
  down_block_types: Array(4).fill('DownEncoderBlock2D'),
  up_block_types: Array(4).fill('UpDecoderBlock2D'),
  layers_per_block: 2,
  norm_num_groups: 32,
  act_fn: 'silu',
  mid_block_add_attention: true,
  scaling_factor: 1.5305,
  shift_factor: 0.0609,
  use_quant_conv: false,
  use_post_quant_conv: false,
  force_upcast: true,
  sample_size: 1024,
}

const SCHEDULER_CONFIG = {
  _class_name: 'FlowMatchEulerDiscreteScheduler',
  num_train_timesteps: 1000,
  shift: 3,
  use_dynamic_shifting: false,
  base_shift: 0.5,
  max_shift: 1.15,
  base_image_seq_len: 256,
  max_image_seq_len: 4096,
}

await mkdir(HEADERS, { recursive: true })
for (const name of Object.keys(published.VARIANTS) as PublishedModel[]) {
  for (const [layout, files] of [
    ['single-file', createSingleFile(name)],
    ['diffusers', createDiffusers(name)],
  ] as const) {
    await writeFile(path.join(HEADERS, `${name}.${layout}.json.gz`), gzipSync(JSON.stringify(files), { level: 9 }))
  }
}

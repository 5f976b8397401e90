// A ControlNet of SD3.5 Large's kind for the tiny checkpoints, with seeded random weights, in either published layout.
// node infra/checkpoints/tiny/controlnet.ts --out DIR [--variant tiny-large]
import { mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Command, Option } from 'commander'
import { type NamedTensor, writeSafetensors } from '../write-safetensors.ts'
import { createConvolution, draw, linear, type Parameter } from './parameters.ts'
import { TINY_VARIANTS, type TinyVariant } from './variants.ts'

/** Blocks of a ControlNet. */
const LAYERS = 2
const TIMESTEP_WIDTH = 256

export type TinyControlnet = { variant?: TinyVariant; layers?: number; seed?: number }

export type ControlnetShape = { width: number; pooled: number; channels: number; patch: number; layers: number }

/** The parameters under Stability's names. */
export const createControlnetParameters = ({
  width,
  pooled,
  channels,
  patch,
  layers,
}: ControlnetShape): Parameter[] => [
  ...createConvolution('pos_embed_input.proj', channels, width, patch),
  ...linear('time_text_embed.timestep_embedder.linear_1', TIMESTEP_WIDTH, width),
  ...linear('time_text_embed.timestep_embedder.linear_2', width, width),
  ...linear('time_text_embed.text_embedder.linear_1', pooled, width),
  ...linear('time_text_embed.text_embedder.linear_2', width, width),
  ...Array.from({ length: layers }, (_, i) => [
    ...linear(`transformer_blocks.${i}.adaLN_modulation.1`, width, 6 * width),
    ...linear(`transformer_blocks.${i}.attn.qkv`, width, 3 * width),
    ...linear(`transformer_blocks.${i}.attn.proj`, width, width),
    ...linear(`transformer_blocks.${i}.mlp.fc1`, width, 4 * width),
    ...linear(`transformer_blocks.${i}.mlp.fc2`, 4 * width, width),
    ...linear(`controlnet_blocks.${i}`, width, width),
  ]).flat(),
]

/** The tensors under Stability's names, and diffusers' config.json. */
export function createTinyControlnet({ variant = 'tiny-large', layers = LAYERS, seed = 0 }: TinyControlnet = {}) {
  const { transformer, clipL, clipG } = TINY_VARIANTS[variant]
  const { heads, headDim, channels, patch } = transformer
  const [width, pooled] = [heads * headDim, clipL.projection + clipG.projection]
  const parameters = createControlnetParameters({ width, pooled, channels, patch, layers })
  const config = {
    ...{ _class_name: 'SD3ControlNetModel', num_layers: layers, num_attention_heads: heads },
    ...{ attention_head_dim: headDim, in_channels: channels, patch_size: patch, sample_size: transformer.sampleSize },
    ...{ pooled_projection_dim: pooled, caption_projection_dim: width, joint_attention_dim: null },
    ...{ pos_embed_max_size: null, pos_embed_type: null, use_pos_embed: false },
    force_zeros_for_pooled_projection: false,
  }
  return { tensors: parameters.map((parameter) => draw(parameter, `controlnet/${variant}/${seed}`)), config }
}

/** Writes a ControlNet in diffusers' layout into `directory`. */
export async function writeTinyControlnet(directory: string, options: TinyControlnet = {}): Promise<string> {
  const { tensors, config } = createTinyControlnet(options)
  await mkdir(directory, { recursive: true })
  await writeFile(path.join(directory, 'config.json'), `${JSON.stringify(config, null, 2)}\n`)
  const file = path.join(directory, 'diffusion_pytorch_model.safetensors')
  await writeSafetensors(file, tensors.flatMap(toDiffusers), 'F32')
  return directory
}

const RENAMED: readonly (readonly [own: string, diffusers: string])[] = [
  ['.attn.proj.', '.attn.to_out.0.'],
  ['.mlp.fc1.', '.ff.net.0.proj.'],
  ['.mlp.fc2.', '.ff.net.2.'],
  ['.adaLN_modulation.1.', '.norm1.linear.'],
]

/** diffusers scripts/convert_sd3_controlnet_to_diffusers.py */
function toDiffusers({ name, shape, data }: NamedTensor): NamedTensor[] {
  if (!name.includes('.attn.qkv.')) {
    const renamed = RENAMED.reduce((text, [own, diffusers]) => text.replace(own, diffusers), name)
    return [{ name: renamed, shape, data }]
  }
  const [rows = 0, ...columns] = shape
  return ['q', 'k', 'v'].map((projection, i) => ({
    name: name.replace('qkv', `to_${projection}`),
    shape: [rows / 3, ...columns],
    data: data.slice((i * data.length) / 3, ((i + 1) * data.length) / 3),
  }))
}

if (import.meta.main) {
  const { out, ...options } = new Command('tiny-controlnet')
    .requiredOption('--out <directory>')
    .addOption(new Option('--variant <name>').choices(Object.keys(TINY_VARIANTS)).default('tiny-large'))
    .parse()
    .opts<TinyControlnet & { out: string }>()
  console.log(await writeTinyControlnet(out, options))
}

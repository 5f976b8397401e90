// diffusers' parameter names as Stability's: the inverse of diffusers' scripts/convert_sd3_to_diffusers.py.
import type { Placement } from '../../../compile/checkpoint/layout/rename.ts'

const IN_TRANSFORMER: Record<string, string> = {
  'pos_embed.proj': 'x_embedder.proj',
  'time_text_embed.timestep_embedder.linear_1': 't_embedder.mlp.0',
  'time_text_embed.timestep_embedder.linear_2': 't_embedder.mlp.2',
  'time_text_embed.text_embedder.linear_1': 'y_embedder.mlp.0',
  'time_text_embed.text_embedder.linear_2': 'y_embedder.mlp.2',
  context_embedder: 'context_embedder',
  proj_out: 'final_layer.linear',
  'norm_out.linear': 'final_layer.adaLN_modulation.1',
}

const IN_BLOCK: Record<string, string> = {
  'attn.norm_q': 'x_block.attn.ln_q',
  'attn.norm_k': 'x_block.attn.ln_k',
  'attn.to_out.0': 'x_block.attn.proj',
  'attn.norm_added_q': 'context_block.attn.ln_q',
  'attn.norm_added_k': 'context_block.attn.ln_k',
  'attn.to_add_out': 'context_block.attn.proj',
  'attn2.norm_q': 'x_block.attn2.ln_q',
  'attn2.norm_k': 'x_block.attn2.ln_k',
  'attn2.to_out.0': 'x_block.attn2.proj',
  'norm1.linear': 'x_block.adaLN_modulation.1',
  'norm1_context.linear': 'context_block.adaLN_modulation.1',
  'ff.net.0.proj': 'x_block.mlp.fc1',
  'ff.net.2': 'x_block.mlp.fc2',
  'ff_context.net.0.proj': 'context_block.mlp.fc1',
  'ff_context.net.2': 'context_block.mlp.fc2',
}

/** Three projections that Stability stores as one, rows q then k then v. */
const QKV_IN_BLOCK: Record<string, readonly string[]> = {
  'x_block.attn.qkv': ['attn.to_q', 'attn.to_k', 'attn.to_v'],
  'context_block.attn.qkv': ['attn.add_q_proj', 'attn.add_k_proj', 'attn.add_v_proj'],
  'x_block.attn2.qkv': ['attn2.to_q', 'attn2.to_k', 'attn2.to_v'],
}

const IN_ATTENTION: Record<string, string> = {
  group_norm: 'norm',
  to_q: 'q',
  to_k: 'k',
  to_v: 'v',
  'to_out.0': 'proj_out',
  // Names of diffusers before 0.15, still in published VAE files.
  query: 'q',
  key: 'k',
  value: 'v',
  proj_attn: 'proj_out',
}

const IN_RESNET: Record<string, string> = {
  norm1: 'norm1',
  conv1: 'conv1',
  norm2: 'norm2',
  conv2: 'conv2',
  conv_shortcut: 'nin_shortcut',
}

const AROUND_BLOCKS: Record<string, string> = { conv_in: 'conv_in', conv_out: 'conv_out', conv_norm_out: 'norm_out' }

/** `depth` is the number of blocks. Undefined for a name that diffusers does not use. */
export function placeTransformer(name: string, depth: number): Placement | undefined {
  if (name === 'pos_embed.pos_embed') return placeWholeTensor('pos_embed')
  const { module, parameter } = splitParameter(name)
  const block = /^transformer_blocks\.(\d+)\.(.+)$/.exec(module)
  if (!block) {
    const target = lookUp(IN_TRANSFORMER, module)
    return target ? { ...placeWholeTensor(`${target}.${parameter}`), swap: module === 'norm_out.linear' } : undefined
  }
  const prefix = `joint_blocks.${block[1]}`
  const inside = block[2]!
  for (const [target, projections] of Object.entries(QKV_IN_BLOCK)) {
    const index = projections.indexOf(inside)
    if (index >= 0) return { name: `${prefix}.${target}.${parameter}`, index, count: 3, swap: false }
  }
  const target = lookUp(IN_BLOCK, inside)
  // AdaLayerNormContinuous has (scale, shift) where Stability has (shift, scale); only the last context block uses it.
  const swap = inside === 'norm1_context.linear' && Number(block[1]) === depth - 1
  return target ? { ...placeWholeTensor(`${prefix}.${target}.${parameter}`), swap } : undefined
}

/** The names of all matrices of a transformer with this many blocks. */
export function listTransformerModules(depth: number): string[] {
  const inBlock = [...Object.keys(IN_BLOCK), ...Object.values(QKV_IN_BLOCK).flat()].filter(
    (name) => !/norm_/.test(name),
  )
  const blocks = Array.from({ length: depth }, (_, i) => inBlock.map((name) => `transformer_blocks.${i}.${name}`))
  return [...Object.keys(IN_TRANSFORMER), ...blocks.flat()]
}

/** `levels` is the number of the decoder's up blocks, which diffusers counts from the other end. */
export function placeVae(name: string, levels: number): Placement | undefined {
  const { module, parameter } = splitParameter(name)
  if (module === 'post_quant_conv' || module === 'quant_conv') return placeWholeTensor(name)
  const [, half, inside] = /^(encoder|decoder)\.(.+)$/.exec(module) ?? []
  if (!inside) return undefined
  const block = half === 'encoder' ? placeDownBlock(inside) : placeUpBlock(inside, levels)
  const target = lookUp(AROUND_BLOCKS, inside) ?? placeMiddle(inside) ?? block
  return target ? placeWholeTensor(`${half}.${target}.${parameter}`) : undefined
}

function placeMiddle(inside: string): string | undefined {
  const [, index, module] = /^mid_block\.resnets\.([01])\.(.+)$/.exec(inside) ?? []
  if (module) return join(`mid.block_${Number(index) + 1}`, lookUp(IN_RESNET, module))
  const attention = /^mid_block\.attentions\.0\.(.+)$/.exec(inside)
  return attention ? join('mid.attn_1', lookUp(IN_ATTENTION, attention[1]!)) : undefined
}

function placeUpBlock(inside: string, levels: number): string | undefined {
  const [, block, module] = /^up_blocks\.(\d+)\.(.+)$/.exec(inside) ?? []
  if (!module) return undefined
  const level = `up.${levels - 1 - Number(block)}`
  return module === 'upsamplers.0.conv' ? `${level}.upsample.conv` : placeResnet(level, module)
}

function placeDownBlock(inside: string): string | undefined {
  const [, block, module] = /^down_blocks\.(\d+)\.(.+)$/.exec(inside) ?? []
  if (!module) return undefined
  return module === 'downsamplers.0.conv' ? `down.${block}.downsample.conv` : placeResnet(`down.${block}`, module)
}

function placeResnet(level: string, module: string): string | undefined {
  const [, index, part] = /^resnets\.(\d+)\.(.+)$/.exec(module) ?? []
  return part ? join(`${level}.block.${index}`, lookUp(IN_RESNET, part)) : undefined
}

function splitParameter(name: string): { module: string; parameter: string } {
  const dot = name.lastIndexOf('.')
  return { module: name.slice(0, Math.max(dot, 0)), parameter: name.slice(dot + 1) }
}

function placeWholeTensor(name: string): Placement {
  return { name, index: 0, count: 1, swap: false }
}

/** Names come from untrusted files, so inherited properties such as `constructor` do not count. */
function lookUp(table: Record<string, string>, key: string): string | undefined {
  return Object.hasOwn(table, key) ? table[key] : undefined
}

function join(prefix: string, rest: string | undefined): string | undefined {
  return rest && `${prefix}.${rest}`
}

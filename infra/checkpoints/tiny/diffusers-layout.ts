// Stability's names and row order → those of the diffusers layout. diffusers scripts/convert_sd3_to_diffusers.py.
import type { NamedTensor } from '../write-safetensors.ts'

type Rows = (tensor: NamedTensor) => NamedTensor[]
type Rule = [pattern: RegExp, replacement: string, rows?: Rows]

/** Applies the first matching rule; other names remain unchanged. */
function rename(tensor: NamedTensor, rules: readonly Rule[]): NamedTensor[] {
  for (const [pattern, replacement, rows] of rules) {
    if (!pattern.test(tensor.name)) continue
    const renamed = { ...tensor, name: tensor.name.replace(pattern, replacement) }
    return rows ? rows(renamed) : [renamed]
  }
  return [tensor]
}

const split = (tensor: NamedTensor, parts: number) => {
  const rows = tensor.shape[0]! / parts
  const length = tensor.data.length / parts
  return Array.from({ length: parts }, (_, i) => ({
    shape: [rows, ...tensor.shape.slice(1)],
    data: tensor.data.slice(i * length, (i + 1) * length),
  }))
}

/** `to_q/to_k/to_v.weight` names three tensors: the thirds of the fused projection. */
const splitProjections: Rows = (tensor) => {
  const parts = tensor.name.split('.')
  const nameOf = (i: number) => parts.map((part) => (part.includes('/') ? part.split('/')[i] : part)).join('.')
  return split(tensor, 3).map((part, i) => ({ ...part, name: nameOf(i) }))
}

/** Stability stores shift, scale; diffusers' `AdaLayerNormContinuous` scale, shift. */
const swapHalves: Rows = (tensor) => {
  const [shift, scale] = split(tensor, 2)
  const data = new Float32Array(tensor.data.length)
  data.set(scale!.data)
  data.set(shift!.data, scale!.data.length)
  return [{ ...tensor, data }]
}

const dropTrailingOnes: Rows = (tensor) => [{ ...tensor, shape: tensor.shape.slice(0, 2) }]

const createTransformerRules = (last: number): Rule[] => [
  [/^pos_embed$/, 'pos_embed.pos_embed'],
  [/^x_embedder\.proj/, 'pos_embed.proj'],
  [/^t_embedder\.mlp\.0/, 'time_text_embed.timestep_embedder.linear_1'],
  [/^t_embedder\.mlp\.2/, 'time_text_embed.timestep_embedder.linear_2'],
  [/^y_embedder\.mlp\.0/, 'time_text_embed.text_embedder.linear_1'],
  [/^y_embedder\.mlp\.2/, 'time_text_embed.text_embedder.linear_2'],
  [/^final_layer\.linear/, 'proj_out'],
  [/^final_layer\.adaLN_modulation\.1/, 'norm_out.linear', swapHalves],
  [
    new RegExp(`^joint_blocks\\.(${last})\\.context_block\\.adaLN_modulation\\.1`),
    block('norm1_context.linear'),
    swapHalves,
  ],
  [/^joint_blocks\.(\d+)\.context_block\.adaLN_modulation\.1/, block('norm1_context.linear')],
  [/^joint_blocks\.(\d+)\.x_block\.adaLN_modulation\.1/, block('norm1.linear')],
  [/^joint_blocks\.(\d+)\.x_block\.(attn2?)\.qkv/, block('$2.to_q/to_k/to_v'), splitProjections],
  [/^joint_blocks\.(\d+)\.x_block\.(attn2?)\.ln_([qk])/, block('$2.norm_$3')],
  [/^joint_blocks\.(\d+)\.x_block\.(attn2?)\.proj/, block('$2.to_out.0')],
  [/^joint_blocks\.(\d+)\.context_block\.attn\.qkv/, block('attn.add_q_proj/add_k_proj/add_v_proj'), splitProjections],
  [/^joint_blocks\.(\d+)\.context_block\.attn\.ln_([qk])/, block('attn.norm_added_$2')],
  [/^joint_blocks\.(\d+)\.context_block\.attn\.proj/, block('attn.to_add_out')],
  [/^joint_blocks\.(\d+)\.x_block\.mlp\.fc1/, block('ff.net.0.proj')],
  [/^joint_blocks\.(\d+)\.x_block\.mlp\.fc2/, block('ff.net.2')],
  [/^joint_blocks\.(\d+)\.context_block\.mlp\.fc1/, block('ff_context.net.0.proj')],
  [/^joint_blocks\.(\d+)\.context_block\.mlp\.fc2/, block('ff_context.net.2')],
]

function block(rest: string): string {
  return `transformer_blocks.$1.${rest}`
}

export function convertTransformerToDiffusers(tensors: readonly NamedTensor[], depth: number): NamedTensor[] {
  const rules = createTransformerRules(depth - 1)
  return tensors.flatMap((tensor) => rename(tensor, rules))
}

const createVaeRules = (levels: number): Rule[] => [
  ...Array.from({ length: levels }, (_, i): Rule[] => [
    [new RegExp(`^decoder\\.up\\.${i}\\.block\\.(\\d+)\\.`), `decoder.up_blocks.${levels - 1 - i}.resnets.$1.`],
    [new RegExp(`^decoder\\.up\\.${i}\\.upsample\\.`), `decoder.up_blocks.${levels - 1 - i}.upsamplers.0.`],
  ]).flat(),
  [/^encoder\.down\.(\d+)\.block\.(\d+)\./, 'encoder.down_blocks.$1.resnets.$2.'],
  [/^encoder\.down\.(\d+)\.downsample\./, 'encoder.down_blocks.$1.downsamplers.0.'],
  [/^(.*)\.mid\.block_1\./, '$1.mid_block.resnets.0.'],
  [/^(.*)\.mid\.block_2\./, '$1.mid_block.resnets.1.'],
  [/^(.*)\.mid\.attn_1\.norm\./, '$1.mid_block.attentions.0.group_norm.'],
  [/^(.*)\.mid\.attn_1\.([qkv])\.weight/, '$1.mid_block.attentions.0.to_$2.weight', dropTrailingOnes],
  [/^(.*)\.mid\.attn_1\.([qkv])\.bias/, '$1.mid_block.attentions.0.to_$2.bias'],
  [/^(.*)\.mid\.attn_1\.proj_out\.weight/, '$1.mid_block.attentions.0.to_out.0.weight', dropTrailingOnes],
  [/^(.*)\.mid\.attn_1\.proj_out\.bias/, '$1.mid_block.attentions.0.to_out.0.bias'],
  [/^(encoder|decoder)\.norm_out\./, '$1.conv_norm_out.'],
]

export function convertVaeToDiffusers(tensors: readonly NamedTensor[], levels: number): NamedTensor[] {
  const rules = createVaeRules(levels)
  const shortcut: Rule[] = [[/\.nin_shortcut\./, '.conv_shortcut.']]
  return tensors.flatMap((tensor) => rename(tensor, rules)).flatMap((tensor) => rename(tensor, shortcut))
}

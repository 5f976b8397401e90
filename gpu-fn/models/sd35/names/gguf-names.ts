// The names of tensors in GGUF files: T5 under the names of llama.cpp, and transformers that stable-diffusion.cpp renamed.
import { countOf, type Placement, rename } from '../../../compile/checkpoint/layout/rename.ts'
import type { Tensor } from '../../../compile/checkpoint/tensor.ts'

const T5: Readonly<Record<string, string>> = {
  'token_embd.weight': 'shared.weight',
  'output.weight': 'lm_head.weight',
  'enc.output_norm.weight': 'encoder.final_layer_norm.weight',
  'dec.output_norm.weight': 'decoder.final_layer_norm.weight',
}

const T5_ENCODER_BLOCK: Readonly<Record<string, string>> = {
  attn_norm: 'layer.0.layer_norm',
  attn_q: 'layer.0.SelfAttention.q',
  attn_k: 'layer.0.SelfAttention.k',
  attn_v: 'layer.0.SelfAttention.v',
  attn_o: 'layer.0.SelfAttention.o',
  attn_rel_b: 'layer.0.SelfAttention.relative_attention_bias',
  ffn_norm: 'layer.1.layer_norm',
  ffn_gate: 'layer.1.DenseReluDense.wi_0',
  ffn_up: 'layer.1.DenseReluDense.wi_1',
  ffn_down: 'layer.1.DenseReluDense.wo',
}

/** A name of llama.cpp's T5 (gguf-py tensor_mapping.py) as in transformers; other names are returned as they are. */
export function renameLlamaT5(name: string): string {
  if (Object.hasOwn(T5, name)) return T5[name]!
  const [, side, block, module] = /^(enc|dec)\.blk\.(\d+)\.([a-z_]+)\.weight$/.exec(name) ?? []
  if (!module) return name
  if (side === 'dec') return `decoder.block.${block}.${module}.weight`
  return Object.hasOwn(T5_ENCODER_BLOCK, module) ? `encoder.block.${block}.${T5_ENCODER_BLOCK[module]}.weight` : name
}

/**
 * Stacks q, k and v that stable-diffusion.cpp names `….qkv.weight`, `.weight.1` and `.weight.2` when it converts a diffusers checkpoint
 * (src/name_conversion.cpp). It renames tensors only, so that scale and shift are still in the order of diffusers.
 */
export function joinProjections(file: string, tensors: Map<string, Tensor>): Map<string, Tensor> {
  if (![...tensors.keys()].some((name) => /\.qkv\.(weight|bias)\.1$/.test(name))) return tensors
  const last = countOf(tensors, /^joint_blocks\.(\d+)\./) - 1
  const swapped = ['final_layer', `joint_blocks.${last}.context_block`].map((module) => `${module}.adaLN_modulation.1.`)
  return rename(file, tensors, (name): Placement => {
    const [, base = name, index = '0'] = /^(.+\.qkv\.(?:weight|bias))(?:\.([12]))?$/.exec(name) ?? []
    const count = tensors.has(`${base}.1`) ? 3 : 1
    return { name: base, index: Number(index), count, swap: swapped.some((prefix) => name.startsWith(prefix)) }
  })
}

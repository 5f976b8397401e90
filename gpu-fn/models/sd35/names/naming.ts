// The names of SD3.5's tensors in the published checkpoints, and the names that its models read.
import { CheckpointError, listNames, quote } from '../../../compile/checkpoint/error.ts'
import type { TensorInfo } from '../../../compile/checkpoint/formats/safetensors.ts'
import type { Component, Naming, Skip } from '../../../compile/checkpoint/layout/naming.ts'
import { countOf, rename } from '../../../compile/checkpoint/layout/rename.ts'
import type { Tensor } from '../../../compile/checkpoint/tensor.ts'
import { placeTransformer, placeVae } from './diffusers-names.ts'
import { joinProjections, renameLlamaT5 } from './gguf-names.ts'
import { CLIP_EMBEDDING, OPEN_CLIP_EMBEDDING, OPEN_CLIP_NAMES, translateOpenClip } from './open-clip-names.ts'
import { refuseOtherModels } from './other-models.ts'

export type Sd35Network = 'transformer' | 'clip_l' | 'clip_g' | 't5' | 'vae'

const FOLDERS: readonly (Component & { network: Sd35Network })[] = [
  { folder: 'transformer', network: 'transformer', stem: 'diffusion_pytorch_model' },
  { folder: 'text_encoder', network: 'clip_l', stem: 'model' },
  { folder: 'text_encoder_2', network: 'clip_g', stem: 'model' },
  { folder: 'text_encoder_3', network: 't5', stem: 'model' },
  { folder: 'vae', network: 'vae', stem: 'diffusion_pytorch_model' },
]

/** The tokenizer of each text encoder. */
export const TOKENIZERS = { clip_l: 'tokenizer', clip_g: 'tokenizer_2', t5: 'tokenizer_3' } as const

const TITLES: Record<Sd35Network, string> = {
  transformer: 'transformer',
  clip_l: 'CLIP-L',
  clip_g: 'CLIP-G',
  t5: 'T5',
  vae: 'VAE',
}

const PREFIXES: readonly [prefix: string, network: Sd35Network][] = [
  ['model.diffusion_model.', 'transformer'],
  ['diffusion_model.', 'transformer'],
  ['text_encoders.clip_l.transformer.', 'clip_l'],
  ['text_encoders.clip_g.transformer.', 'clip_g'],
  ['text_encoders.t5xxl.transformer.', 't5'],
  ['text_encoders.clip_l.', 'clip_l'],
  ['text_encoders.clip_g.', 'clip_g'],
  ['text_encoders.t5xxl.', 't5'],
  ['first_stage_model.', 'vae'],
  // The prefix of stable-diffusion.cpp for a VAE that it adds to a checkpoint.
  ['vae.', 'vae'],
]

const SKIPPED: readonly Skip[] = [
  { networks: ['clip_l', 'clip_g'], pattern: /\.position_ids$/, reason: 'the numbers 0 to 76' },
  { networks: ['clip_l', 'clip_g'], pattern: /^attn_mask$/, reason: 'the causal mask' },
  {
    networks: ['clip_l', 'clip_g'],
    pattern: /^(vision_model|visual|visual_projection)\./,
    reason: 'a text encoder does not encode images',
  },
  {
    networks: ['clip_l'],
    layout: 'single-file',
    pattern: /^text_projection(\.weight)?$/,
    reason: "Stability's code, ComfyUI and diffusers' from_single_file pool CLIP-L without its projection",
  },
  { networks: ['t5'], pattern: /^(decoder|lm_head)\./, reason: 'a prompt is only encoded' },
  { networks: ['clip_l', 'clip_g', 't5'], pattern: /^logit_scale$/, reason: 'temperature of the contrastive training' },
]

const CLIP_WIDTHS: Readonly<Record<number, Sd35Network>> = { 768: 'clip_l', 1280: 'clip_g' }
const CLIPS: readonly string[] = ['clip_l', 'clip_g'] satisfies Sd35Network[]

/**
 * `transformer` gets the names of Stability's mmditx.py (`joint_blocks.0.x_block.attn.qkv.weight`), the text encoders those of
 * transformers (`text_model.…`, `shared.weight`, `encoder.block.…`), `vae` those of LDM (`decoder.up.3.block.0.conv1.weight`) with the
 * attention's projections as matrices [C, C].
 */
export const naming: Naming = {
  folders: FOLDERS,
  titles: TITLES,
  pipelines: /^StableDiffusion3/,
  tokenizers: TOKENIZERS,
  prefixes: PREFIXES,
  skipped: SKIPPED,
  identify,
  refuseOthers: refuseOtherModels,
  renameGguf: renameLlamaT5,
  translate: (network, tensors) => (CLIPS.includes(network) ? translateOpenClip(tensors) : tensors),
  adapt(network, file, tensors) {
    if (network === 't5') return untieEmbedding(file, tensors)
    if (network === 'transformer') return reshapePositions(renameTransformer(file, tensors))
    if (network === 'vae') return reshapeAttention(file, renameVae(file, tensors))
    return tensors
  },
}

function identify(file: string, tensors: ReadonlyMap<string, TensorInfo>, expected?: string): string {
  const names = [...tensors.keys()]
  const found = networkOf(file, names, tensors, expected) ?? expected
  if (!found)
    throw new CheckpointError(file, `unexpected tensors: ${listNames(names)}; no network of SD3.5 has these names`)
  if (expected === undefined || found === expected) return found
  throw new CheckpointError(
    file,
    `has the tensors of ${TITLES[found as Sd35Network]}, and its folder is that of ${TITLES[expected as Sd35Network]}`,
  )
}

function networkOf(
  file: string,
  names: readonly string[],
  tensors: ReadonlyMap<string, TensorInfo>,
  expected: string | undefined,
): string | undefined {
  const has = (...prefixes: string[]) => names.some((name) => prefixes.some((prefix) => name.startsWith(prefix)))
  if (has('joint_blocks.', 'transformer_blocks.')) return 'transformer'
  // T5 precedes the autoencoder, because a whole T5 also has a decoder.
  if (has('encoder.block.')) return 't5'
  if (has('decoder.')) return 'vae'
  if (has('text_model.', ...OPEN_CLIP_NAMES)) return clipOf(file, tensors, expected)
  return undefined
}

/** Identified by the width of the published encoders, else by its folder, else by the name of the file. */
function clipOf(file: string, tensors: ReadonlyMap<string, TensorInfo>, expected: string | undefined): string {
  const embedding = tensors.get(CLIP_EMBEDDING) ?? tensors.get(OPEN_CLIP_EMBEDDING)
  const width = embedding?.shape[1]
  const byWidth = width === undefined ? undefined : CLIP_WIDTHS[width]
  if (byWidth) return byWidth
  if (expected && CLIPS.includes(expected)) return expected
  const named = CLIPS.filter((network) => basename(file).toLowerCase().includes(network))
  if (named.length === 1) return named[0]!
  throw new CheckpointError(
    file,
    `a CLIP text encoder of width ${width ?? 'unknown'} is CLIP-L (768) or CLIP-G (1280) only if its file's name has clip_l or clip_g`,
  )
}

const basename = (file: string) => file.split(/[\\/]/).at(-1)!

/** T5 files with two copies of the embedding name the second `encoder.embed_tokens`; transformers ties the two. */
function untieEmbedding(file: string, tensors: Map<string, Tensor>): Map<string, Tensor> {
  const copy = tensors.get('encoder.embed_tokens.weight')
  if (!copy) return tensors
  tensors.delete('encoder.embed_tokens.weight')
  const shared = tensors.get('shared.weight')
  if (shared && shared.shape.join() !== copy.shape.join()) {
    throw new CheckpointError(
      file,
      'shared.weight and encoder.embed_tokens.weight must be the same table; their shapes differ',
    )
  }
  return tensors.set('shared.weight', shared ?? { ...copy, name: 'shared.weight' })
}

function renameTransformer(file: string, tensors: Map<string, Tensor>): Map<string, Tensor> {
  const depth = countOf(tensors, /^transformer_blocks\.(\d+)\./)
  if (depth > 0) return rename(file, tensors, (name) => placeTransformer(name, depth))
  return joinProjections(file, tensors)
}

/** Some converters drop the first axis of the position table [1, side², D]. */
function reshapePositions(tensors: Map<string, Tensor>): Map<string, Tensor> {
  const table = tensors.get('pos_embed')
  return table?.shape.length === 2 ? tensors.set('pos_embed', { ...table, shape: [1, ...table.shape] }) : tensors
}

function renameVae(file: string, tensors: Map<string, Tensor>): Map<string, Tensor> {
  const levels = countOf(tensors, /^decoder\.up_blocks\.(\d+)\./)
  return levels === 0 ? tensors : rename(file, tensors, (name) => placeVae(name, levels))
}

/** Stability stores the attention of the autoencoder as 1×1 convolutions; here they are matrices, as in diffusers. */
function reshapeAttention(file: string, tensors: Map<string, Tensor>): Map<string, Tensor> {
  for (const [name, tensor] of tensors) {
    if (!/^(en|de)coder\.mid\.attn_1\.(q|k|v|proj_out)\.weight$/.test(name)) continue
    const [rows, columns, ...kernel] = tensor.shape
    if (rows === undefined || columns === undefined || kernel.some((size) => size !== 1)) {
      throw new CheckpointError(file, `${quote(name)} must be [C, C] or [C, C, 1, 1], not [${tensor.shape.join(', ')}]`)
    }
    tensors.set(name, { ...tensor, shape: [rows, columns] })
  }
  return tensors
}

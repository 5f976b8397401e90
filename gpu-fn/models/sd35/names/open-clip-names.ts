// OpenCLIP's parameter names as those of transformers. open_clip model.py `CLIP`; transformers convert_clip_original_pytorch_to_hf.py.
import type { TensorInfo } from '../../../compile/checkpoint/formats/safetensors.ts'

export const CLIP_EMBEDDING = 'text_model.embeddings.token_embedding.weight'
export const OPEN_CLIP_EMBEDDING = 'token_embedding.weight'
/** Prefixes that only a CLIP has. */
export const OPEN_CLIP_NAMES = ['transformer.resblocks.', OPEN_CLIP_EMBEDDING, 'text_projection']

const WHOLE: Readonly<Record<string, string>> = {
  [OPEN_CLIP_EMBEDDING]: CLIP_EMBEDDING,
  positional_embedding: 'text_model.embeddings.position_embedding.weight',
  'ln_final.weight': 'text_model.final_layer_norm.weight',
  'ln_final.bias': 'text_model.final_layer_norm.bias',
}

const IN_LAYER: Readonly<Record<string, string>> = {
  ln_1: 'layer_norm1',
  ln_2: 'layer_norm2',
  'attn.out_proj': 'self_attn.out_proj',
  'mlp.c_fc': 'mlp.fc1',
  'mlp.c_proj': 'mlp.fc2',
}

/** Renames the parameters of OpenCLIP's text encoder, and divides its stacked projections into three tensors; keeps other names. */
export function translateOpenClip(tensors: Map<string, TensorInfo>): Map<string, TensorInfo> {
  return new Map([...tensors].flatMap(([name, info]) => translate(name, info)))
}

function translate(name: string, info: TensorInfo): [string, TensorInfo][] {
  const [, index, inside] = /^transformer\.resblocks\.(\d+)\.(.+)$/.exec(name) ?? []
  if (!inside) return [[Object.hasOwn(WHOLE, name) ? WHOLE[name]! : name, info]]
  const layer = `text_model.encoder.layers.${index}`
  const [, stacked] = /^attn\.in_proj_(weight|bias)$/.exec(inside) ?? []
  if (stacked) return splitInThirds(info).map((part, i) => [`${layer}.self_attn.${'qkv'[i]}_proj.${stacked}`, part])
  const [, module, parameter] = /^(.+)\.(\w+)$/.exec(inside) ?? []
  const target = module && Object.hasOwn(IN_LAYER, module) ? IN_LAYER[module] : undefined
  return [[target ? `${layer}.${target}.${parameter}` : name, info]]
}

/** The three thirds of the rows. A tensor whose rows cannot be divided is returned whole, so that its shape is refused later. */
function splitInThirds(info: TensorInfo): TensorInfo[] {
  const rows = (info.shape[0] ?? 0) / 3
  if (!Number.isInteger(rows)) return [info]
  const [shape, bytes] = [[rows, ...info.shape.slice(1)], info.bytes / 3]
  return [0, 1, 2].map((i) => ({ ...info, shape, bytes, offset: info.offset + i * bytes }))
}

// The names of a ControlNet's tensors in Stability's file and in diffusers' directory. Stability-AI/sd3.5 dit_embedder.py @ fbf8f48; diffusers
// scripts/convert_sd3_controlnet_to_diffusers.py.
import { CheckpointError, quote } from '../../../compile/checkpoint/error.ts'
import type { Naming } from '../../../compile/checkpoint/layout/naming.ts'
import { type Placement, rename } from '../../../compile/checkpoint/layout/rename.ts'

export const CONTROLNET = 'controlnet'
/** The tensor of Stability's files with the type of the ControlNet: an index of `CONTROL_TYPES`. */
export const CONTROL_TYPE = 'control_type'

const IN_BLOCK: readonly (readonly [diffusers: string, own: string])[] = [
  ['attn.to_out.0', 'attn.proj'],
  ['ff.net.0.proj', 'mlp.fc1'],
  ['ff.net.2', 'mlp.fc2'],
  ['norm1.linear', 'adaLN_modulation.1'],
]
const QKV = ['attn.to_q', 'attn.to_k', 'attn.to_v']

const BLOCK = /^(transformer_blocks\.\d+)\.(.+)\.(weight|bias)$/

/** Stability's name of a tensor in diffusers' layout; names outside of the blocks are equal in both. */
function placeTensor(name: string): Placement {
  const [, block, module, parameter] = BLOCK.exec(name) ?? []
  const index = QKV.indexOf(module ?? '')
  if (index >= 0) return { name: `${block}.attn.qkv.${parameter}`, index, count: 3, swap: false }
  const own = IN_BLOCK.find(([diffusers]) => diffusers === module)?.[1] ?? module
  return { name: own === undefined ? name : `${block}.${own}.${parameter}`, index: 0, count: 1, swap: false }
}

/** Tensors of other kinds of ControlNets for SD3, with the property that distinguishes them. */
const OTHERS: readonly (readonly [pattern: RegExp, property: string])[] = [
  [/\.(add_[qkv]_proj|to_add_out|ff_context|norm1_context)\b|^context_embedder\./, 'its blocks have a text stream'],
  [/^pos_embed\.|^x_embedder\./, 'it embeds the latent itself'],
]

function refuseOthers(file: string, names: Iterable<string>): void {
  const list = [...names]
  for (const [pattern, property] of OTHERS) {
    const found = list.find((name) => pattern.test(name))
    if (found === undefined) continue
    throw new CheckpointError(
      file,
      `is a ControlNet of another kind: ${property} (tensor ${quote(found)}). The compiler reads those of SD3.5 Large: blur, canny and depth`,
    )
  }
  if (!list.some((name) => name.startsWith('controlnet_blocks.')))
    throw new CheckpointError(file, 'is not a ControlNet: it has no tensors controlnet_blocks.…')
}

export const controlnetNaming: Naming = {
  folders: [{ folder: CONTROLNET, network: CONTROLNET, stem: 'diffusion_pytorch_model' }],
  titles: { [CONTROLNET]: 'ControlNet' },
  pipelines: /^StableDiffusion3ControlNet/,
  tokenizers: {},
  prefixes: [],
  skipped: [{ networks: 'all', pattern: new RegExp(`^${CONTROL_TYPE}$`), reason: 'the type, read separately' }],
  refuseOthers,
  renameGguf: (name) => name,
  identify: () => CONTROLNET,
  translate: (_, tensors) => tensors,
  adapt: (_, file, tensors) => rename(file, tensors, placeTensor),
}

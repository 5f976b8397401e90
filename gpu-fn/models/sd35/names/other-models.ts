// Checkpoints of other models and additions to checkpoints, by the names of their tensors.
import { CheckpointError, quote } from '../../../compile/checkpoint/error.ts'

const SD35 = 'the compiler reads Stable Diffusion 3.5 and 3'

const MODELS: readonly (readonly [pattern: RegExp, problem: string])[] = [
  [
    /(^|[._])(lora_[AB]|lora[._](?:up|down)|lora_unet|lora_transformer|lora_te\d?|lokr_w\d|hada_w\d|oft_blocks|dora_scale)([._]|$)/,
    'is a LoRA, an addition to a checkpoint; compile it by itself with `--lora` and `--package`, a package of its base',
  ],
  [
    /(^|\.)controlnet_(x_)?(blocks|embedder)\.|^control_model\./,
    'is a ControlNet, an addition to a checkpoint; compile it separately with `--controlnet`',
  ],
  [/(^|\.)(double_blocks|single_blocks|single_transformer_blocks)\./, `is FLUX or a model like it; ${SD35}`],
  [/^(conditioner\.embedders\.|add_embedding\.)|(^|\.)label_emb\.0\./, `is Stable Diffusion XL; ${SD35}`],
  [/^cond_stage_model\.|(^|\.)(input_blocks|down_blocks\.\d+\.attentions)\./, `is Stable Diffusion 1 or 2; ${SD35}`],
  [/(^|\.)(model\.layers|blk)\.\d+\./, 'is a language model; the text encoders of SD3.5 are CLIP-L, CLIP-G and T5-XXL'],
]

/** Throws CheckpointError if the names are those of another model or of an addition to one. */
export function refuseOtherModels(file: string, names: Iterable<string>): void {
  const list = [...names]
  for (const [pattern, problem] of MODELS) {
    const found = list.find((name) => pattern.test(name))
    if (found !== undefined) throw new CheckpointError(file, `${problem} (tensor ${quote(found)})`)
  }
}

import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../../../../gpu-fn/models/sd35/sd35.ts'
import { refusal } from '../../../../support/checkpoints/refusal.ts'
import type { TensorContent } from '../../../../support/checkpoints/safetensors-file.ts'
import { useScratch } from '../../../../support/scratch.ts'

const scratch = useScratch()
const { write } = scratch
const half: TensorContent = { dtype: 'F16', shape: [2, 2] }

/** A tensor name of each kind of published file. */
const NAMES: [name: string, message: RegExp][] = [
  ['transformer.transformer_blocks.0.attn.to_q.lora_A.weight', /is a LoRA, an addition .* `--lora` and `--package`/],
  ['lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight', /is a LoRA/],
  ['diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_B.weight', /is a LoRA/],
  ['unet.transformer_blocks.0.attn.processor.to_q_lora.down.weight', /is a LoRA/],
  ['lycoris_transformer_blocks_0_attn_to_q.lokr_w1', /is a LoRA/],
  ['text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight', /is a LoRA/],
  ['model.diffusion_model.double_blocks.0.img_attn.qkv.weight', /is FLUX or a model like it/],
  ['single_transformer_blocks.0.attn.to_q.weight', /is FLUX or a model like it/],
  ['conditioner.embedders.1.model.ln_final.weight', /is Stable Diffusion XL/],
  ['model.diffusion_model.label_emb.0.0.weight', /is Stable Diffusion XL/],
  ['add_embedding.linear_1.weight', /is Stable Diffusion XL/],
  ['cond_stage_model.transformer.text_model.final_layer_norm.weight', /is Stable Diffusion 1 or 2/],
  ['model.diffusion_model.input_blocks.0.0.weight', /is Stable Diffusion 1 or 2/],
  ['controlnet_blocks.0.weight', /is a ControlNet/],
  ['model.layers.0.self_attn.q_proj.weight', /is a language model/],
  ['blk.0.attn_q.weight', /is a language model/],
]

describe('files of other models', () => {
  it.each(NAMES)('%s', async (name, message) => {
    const problem = await refusal(openCheckpoint([await write('x.safetensors', { [name]: half })]))
    expect(problem).toMatch(message)
    expect(problem).toContain(`(tensor "${name}")`)
  })

  it('exclude SD3.5', async () => {
    const names = [
      'model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight',
      'first_stage_model.decoder.up.0.block.0.conv1.weight',
    ]
    const { networks } = await openCheckpoint([
      await write('x.safetensors', Object.fromEntries(names.map((name) => [name, half]))),
    ])
    expect(Object.keys(networks).sort()).toEqual(['transformer', 'vae'])
  })
})

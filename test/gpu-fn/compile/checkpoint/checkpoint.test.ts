import path from 'node:path'
import { describe, expect, it } from 'vitest'
import type { Sd35Network } from '../../../../gpu-fn/models/sd35/names/naming.ts'
import { openCheckpoint } from '../../../../gpu-fn/models/sd35/sd35.ts'
import { writeTinyCheckpoint } from '../../../../infra/checkpoints/tiny/checkpoint.ts'
import { readStored } from '../../../support/checkpoints/read-stored.ts'
import { refusal } from '../../../support/checkpoints/refusal.ts'
import type { TensorContent } from '../../../support/checkpoints/safetensors-file.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()
const { write } = scratch

const half: TensorContent = { dtype: 'F16', shape: [2, 2] }
const createEmbedding = (width: number): Record<string, TensorContent> => ({
  'text_model.embeddings.token_embedding.weight': { dtype: 'F16', shape: [5, width] },
})

describe('the two layouts of one model', () => {
  it.each(['tiny-medium', 'tiny-large'] as const)('have the same names, shapes and values: %s', async (variant) => {
    const [single, diffusers] = await Promise.all(
      (['single-file', 'diffusers'] as const).map(async (layout) =>
        openCheckpoint([await writeTinyCheckpoint(path.join(scratch.directory, layout), { variant, layout })]),
      ),
    )
    const read = readStored()
    expect(Object.keys(diffusers!.networks).sort()).toEqual(['clip_g', 'clip_l', 't5', 'transformer', 'vae'])
    for (const [network, tensors] of Object.entries(single!.networks)) {
      const others = diffusers!.networks[network as Sd35Network]!
      // Stability's code, ComfyUI and diffusers' from_single_file do not read it in a single file.
      if (network === 'clip_l') expect(others.delete('text_projection.weight')).toBe(true)
      expect([...others.keys()].sort()).toEqual([...tensors.keys()].sort())
      for (const [name, tensor] of tensors) {
        const other = others.get(name)!
        expect(other, name).toMatchObject({ name, shape: tensor.shape })
        expect(other.parts.every(({ dtype, scale }) => dtype === tensor.parts[0]!.dtype && scale === 1)).toBe(true)
        expect(Buffer.compare(await read(other), await read(tensor)), name).toBe(0)
      }
    }
    expect(Object.keys(diffusers!.tokenizers).sort()).toEqual(['tokenizer', 'tokenizer_2', 'tokenizer_3'])
    expect(single!.tokenizers.tokenizer).toBe(path.join(scratch.directory, 'single-file', 'tokenizer'))
  })
})

describe('single files', () => {
  it('can each contain one network, identified by tensor names and width', async () => {
    const { networks, sources } = await openCheckpoint([
      await write('a.safetensors', { 'joint_blocks.0.x_block.attn.qkv.weight': half }),
      await write('b.safetensors', createEmbedding(768)),
      await write('c.safetensors', createEmbedding(1280)),
      await write('d.safetensors', { 'encoder.block.0.layer.0.SelfAttention.q.weight': half, 'shared.weight': half }),
      await write('e.safetensors', {
        'decoder.conv_in.weight': half,
        'encoder.conv_in.weight': half,
        'quant_conv.bias': half,
      }),
    ])
    expect(sources.vae).toEqual({ layout: 'single-file', name: 'e.safetensors' })
    expect([...networks.clip_l!.values()][0]!.shape).toEqual([5, 768])
    expect([...networks.clip_g!.values()][0]!.shape).toEqual([5, 1280])
    expect([...networks.transformer!.keys()]).toEqual(['joint_blocks.0.x_block.attn.qkv.weight'])
    expect([...networks.t5!.keys()]).toEqual(['encoder.block.0.layer.0.SelfAttention.q.weight', 'shared.weight'])
    expect([...networks.vae!.keys()]).toEqual([
      ...['decoder.conv_in.weight', 'encoder.conv_in.weight', 'quant_conv.bias'],
    ])
  })

  it('can contain a VAE under the prefix of stable-diffusion.cpp', async () => {
    const { networks } = await openCheckpoint([await write('x.safetensors', { 'vae.decoder.conv_in.weight': half })])
    expect([...networks.vae!.keys()]).toEqual(['decoder.conv_in.weight'])
  })

  it('of CLIP encoders with other widths are distinguished by file name', async () => {
    const paths = [
      await write('clip_g_small.safetensors', createEmbedding(32)),
      await write('my_clip_l.safetensors', createEmbedding(16)),
    ]
    const { networks } = await openCheckpoint(paths)
    expect([...networks.clip_l!.values()][0]!.shape).toEqual([5, 16])
    expect([...networks.clip_g!.values()][0]!.shape).toEqual([5, 32])
    expect(await refusal(openCheckpoint([await write('text.safetensors', createEmbedding(16))]))).toMatch(
      /width 16 is CLIP-L \(768\) or CLIP-G/,
    )
  })

  it('are read without buffers, markers and running averages', async () => {
    const { networks } = await openCheckpoint([
      await write('x.safetensors', {
        'model.diffusion_model.pos_embed': half,
        'model.diffusion_model.scaled_fp8': { dtype: 'F8_E4M3', shape: [0] },
        'model_ema.decay': { dtype: 'F64', shape: [] },
        'text_encoders.clip_l.transformer.text_model.embeddings.position_ids': { dtype: 'I64', shape: [1, 77] },
        'text_encoders.clip_l.logit_scale': { dtype: 'F32', shape: [] },
        'text_encoders.clip_l.transformer.text_model.final_layer_norm.weight': half,
      }),
    ])
    expect([...networks.transformer!.keys()]).toEqual(['pos_embed'])
    expect([...networks.clip_l!.keys()]).toEqual(['text_model.final_layer_norm.weight'])
  })

  it("are read with T5's embedding table once, under any of its names", async () => {
    const block = { 'encoder.block.0.layer.0.SelfAttention.q.weight': half }
    for (const names of [['shared.weight', 'encoder.embed_tokens.weight'], ['encoder.embed_tokens.weight']]) {
      const file = await write('t5.safetensors', { ...block, ...Object.fromEntries(names.map((name) => [name, half])) })
      const { networks } = await openCheckpoint([file])
      expect([...networks.t5!.keys()].sort()).toEqual([...Object.keys(block), 'shared.weight'])
    }
    const other = { dtype: 'F16', shape: [3, 2] }
    const file = await write('t5.safetensors', {
      ...block,
      'shared.weight': half,
      'encoder.embed_tokens.weight': other,
    })
    expect(await refusal(openCheckpoint([file]))).toMatch('must be the same table')
  })

  it.each<[what: string, tensors: Record<string, TensorContent>, message: string | RegExp]>([
    [
      'names of no network',
      { 'lora.a': half, 'lora.b': half },
      /unexpected tensors: "lora.a", "lora.b"; no network of SD3.5/,
    ],
    ['a stray tensor', { 'first_stage_model.decoder.conv_in.bias': half, stray: half }, /unexpected tensors: "stray"/],
    [
      'integers for weights',
      { pos_embed: { dtype: 'I64', shape: [1] }, 'joint_blocks.0.a': half },
      /"pos_embed": parameters of dtype I64 cannot be compiled; F64, F32, F16, BF16, F8_E4M3, .* can/,
    ],
    [
      'the same tensor with and without a prefix',
      { 'model.diffusion_model.joint_blocks.0.a': half, 'joint_blocks.0.a': half },
      /transformer has "joint_blocks.0.a" already/,
    ],
  ])('are refused with %s', async (_, tensors, message) => {
    expect(await refusal(openCheckpoint([await write('x.safetensors', tensors)]))).toMatch(message)
  })

  it('replace a network of an earlier file, with a note in the output', async () => {
    const paths = [
      await write('a.safetensors', { 'joint_blocks.0.a': half }),
      await write('b.safetensors', { 'joint_blocks.1.a': half }),
    ]
    const { networks, notes } = await openCheckpoint(paths)
    expect([...networks.transformer!.keys()]).toEqual(['joint_blocks.1.a'])
    expect(notes.at(-1)).toBe(`${paths[1]}: its transformer replaces that of ${paths[0]}.`)
  })

  it('are refused if they are not part of a checkpoint', async () => {
    expect(await refusal(openCheckpoint([path.join(scratch.directory, 'nothing')]))).toMatch(
      'no such file or directory',
    )
    expect(await refusal(openCheckpoint([await write('model.ckpt', {})]))).toMatch(
      'is neither a directory, nor a .safetensors file',
    )
  })
})

import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../../../../gpu-fn/models/sd35/sd35.ts'
import { readStored } from '../../../../support/checkpoints/read-stored.ts'
import { refusal } from '../../../../support/checkpoints/refusal.ts'
import type { TensorContent } from '../../../../support/checkpoints/safetensors-file.ts'
import { useScratch } from '../../../../support/scratch.ts'

const scratch = useScratch()
const { write } = scratch

async function writeFolder(folder: string, file: string, tensors: Record<string, TensorContent>): Promise<void> {
  await mkdir(path.join(scratch.directory, folder), { recursive: true })
  await write(path.join(folder, file), tensors)
}

const half: TensorContent = { dtype: 'F16', shape: [2, 2] }

describe('the diffusers layout', () => {
  const block = 'transformer_blocks.0.attn'
  const q: TensorContent = { dtype: 'F16', shape: [1, 2], data: Uint8Array.of(1, 2, 3, 4) }
  const k: TensorContent = { dtype: 'F16', shape: [1, 2], data: Uint8Array.of(5, 6, 7, 8) }
  const v: TensorContent = { dtype: 'F16', shape: [1, 2], data: Uint8Array.of(9, 10, 11, 12) }
  const writeTransformer = (tensors: Record<string, TensorContent>) =>
    writeFolder('transformer', 'diffusion_pytorch_model.safetensors', tensors)

  it('stacks q, k and v in this order, and swaps scale and shift', async () => {
    const linear: TensorContent = { dtype: 'F16', shape: [2], data: Uint8Array.of(1, 1, 2, 2) }
    await writeTransformer({
      [`${block}.to_v.weight`]: v,
      [`${block}.to_k.weight`]: k,
      [`${block}.to_q.weight`]: q,
      'norm_out.linear.bias': linear,
      'transformer_blocks.0.norm1_context.linear.bias': linear,
      'transformer_blocks.1.norm1_context.linear.bias': linear,
    })
    const { networks } = await openCheckpoint([scratch.directory])
    const readValue = async (name: string) => [...(await readStored()(networks.transformer!.get(name)!))]
    expect(await readValue('joint_blocks.0.x_block.attn.qkv.weight')).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
    expect(await readValue('final_layer.adaLN_modulation.1.bias')).toEqual([2, 2, 1, 1])
    expect(await readValue('joint_blocks.0.context_block.adaLN_modulation.1.bias')).toEqual([1, 1, 2, 2])
    expect(await readValue('joint_blocks.1.context_block.adaLN_modulation.1.bias')).toEqual([2, 2, 1, 1])
  })

  it.each<[what: string, tensors: Record<string, TensorContent>, message: RegExp]>([
    [
      'projections of different widths',
      { to_q: q, to_k: { dtype: 'F16', shape: [1, 3] }, to_v: v },
      /to_k.weight" \(\[\*, 3\]\) cannot be stacked on ".*to_q.weight" \(\[\*, 2\]\)/,
    ],
    [
      'a projection missing',
      { to_q: q, to_v: v },
      /is a stack of 3 tensors; only ".*to_q.weight", ".*to_v.weight" exist/,
    ],
    [
      'projections without rows',
      { to_q: { dtype: 'F16', shape: [] }, to_k: { dtype: 'F16', shape: [] }, to_v: { dtype: 'F16', shape: [] } },
      /have no rows to stack/,
    ],
    [
      'a name that SD3.5 does not have',
      { to_q: q, to_k: k, to_v: v, constructor: v },
      /unexpected tensors: ".*attn.constructor.weight"/,
    ],
  ])('is refused with %s', async (_, projections, message) => {
    await writeTransformer(
      Object.fromEntries(Object.entries(projections).map(([name, stored]) => [`${block}.${name}.weight`, stored])),
    )
    expect(await refusal(openCheckpoint([scratch.directory]))).toMatch(message)
  })

  it('is refused if a tensor does not have two halves to swap', async () => {
    await writeTransformer({ 'norm_out.linear.bias': { dtype: 'F16', shape: [3] }, [`${block}.norm_q.weight`]: half })
    expect(await refusal(openCheckpoint([scratch.directory]))).toMatch('must have an even number of rows, not 3')
  })

  it("reads the autoencoder's attention under its old and new names, as matrices", async () => {
    const at = 'decoder.mid_block.attentions.0'
    const up = {
      'decoder.up_blocks.0.resnets.0.norm1.weight': half,
      'decoder.up_blocks.1.upsamplers.0.conv.bias': half,
    }
    for (const names of [
      ['to_q', 'to_k', 'to_v', 'to_out.0'],
      ['query', 'key', 'value', 'proj_attn'],
    ]) {
      const attention = Object.fromEntries(names.map((name) => [`${at}.${name}.weight`, half]))
      await writeFolder('vae', 'diffusion_pytorch_model.fp16.safetensors', { ...up, ...attention })
      const { networks } = await openCheckpoint([scratch.directory])
      const matrices = ['q', 'k', 'v', 'proj_out'].map((name) => `decoder.mid.attn_1.${name}.weight`)
      const others = ['decoder.up.1.block.0.norm1.weight', 'decoder.up.0.upsample.conv.bias']
      expect([...networks.vae!.keys()].sort()).toEqual([...matrices, ...others].sort())
    }
    const kernel = { 'first_stage_model.decoder.mid.attn_1.q.weight': { dtype: 'F16', shape: [2, 2, 3, 3] } }
    expect(await refusal(openCheckpoint([await write('x.safetensors', kernel)]))).toMatch(
      'must be [C, C] or [C, C, 1, 1], not [2, 2, 3, 3]',
    )
  })

  it('prefers full precision, and requires at least one folder and weights in each', async () => {
    expect(await refusal(openCheckpoint([scratch.directory]))).toMatch(
      'is not a diffusers checkpoint: it has none of the folders transformer, text_encoder',
    )
    await writeFolder('text_encoder', 'model.fp16.safetensors', { 'text_projection.weight': half })
    await writeFolder('text_encoder', 'model.safetensors', {
      'text_projection.weight': { dtype: 'F32', shape: [2, 2] },
    })
    const { networks } = await openCheckpoint([scratch.directory])
    expect(networks.clip_l!.get('text_projection.weight')!.parts[0]!.dtype).toBe('F32')
    await mkdir(path.join(scratch.directory, 'vae'))
    expect(await refusal(openCheckpoint([scratch.directory]))).toMatch(
      'has no weights: none of diffusion_pytorch_model.safetensors',
    )
  })
})

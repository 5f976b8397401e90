import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../../../../gpu-fn/models/sd35/sd35.ts'
import { refusal } from '../../../../support/checkpoints/refusal.ts'
import type { Stored } from '../../../../support/checkpoints/safetensors-file.ts'
import { useScratch } from '../../../../support/scratch.ts'

const scratch = useScratch()
const { write } = scratch

describe('scaled FP8', () => {
  const scale = (value: number, dtype = 'F32'): Stored => ({
    dtype,
    shape: [],
    data: dtype === 'F32' ? new Uint8Array(Float32Array.of(value).buffer) : new Uint8Array(2),
  })
  const scaled = (stored: Stored, weight = 'weight') => ({
    [`model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.${weight}`]: { dtype: 'F8_E4M3', shape: [2, 2] },
    'model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.scale_weight': stored,
    'model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.scale_input': scale(1),
  })

  it('keeps the scale beside the weight', async () => {
    const { networks } = await openCheckpoint([await write('x.safetensors', scaled(scale(0.125)))])
    const [tensor, ...others] = networks.transformer!.values()
    expect(tensor).toMatchObject({ name: 'joint_blocks.0.x_block.mlp.fc1.weight', dtype: 'F8_E4M3', scale: 0.125 })
    expect(others).toEqual([])
  })

  it.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])('refuses a scale of %d', async (value) => {
    expect(await refusal(openCheckpoint([await write('x.safetensors', scaled(scale(value)))]))).toMatch(
      'must be positive and finite',
    )
  })

  it('refuses scales of another type or without a weight', async () => {
    expect(await refusal(openCheckpoint([await write('x.safetensors', scaled(scale(1, 'F16')))]))).toMatch(
      'must be one F32 number',
    )
    expect(await refusal(openCheckpoint([await write('x.safetensors', scaled(scale(1), 'bias'))]))).toMatch(
      'there is no "joint_blocks',
    )
  })
})

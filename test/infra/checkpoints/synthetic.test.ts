import { mkdtemp, readFile, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { bytesOf, toFloat32 } from '../../../gpu-fn/compile/checkpoint/formats/dtype.ts'
import { openCheckpoint } from '../../../gpu-fn/models/sd35/sd35.ts'
import { writeRandomTensors } from '../../../infra/checkpoints/synthetic.ts'
import { readStored } from '../../support/checkpoints/read-stored.ts'

/** More weights than the pool has, so that it is repeated. */
const TENSORS = [
  { name: 'model.diffusion_model.pos_embed', shape: [9, 1_000_000] },
  { name: 'first_stage_model.decoder.conv_in.weight', shape: [3, 5] },
]

let scratch = ''
beforeAll(async () => {
  scratch = await mkdtemp(path.join(os.tmpdir(), 'octet-synthetic-'))
})
afterAll(() => rm(scratch, { recursive: true, force: true }))

describe('writeRandomTensors', () => {
  it.each(['BF16', 'F16', 'F32'] as const)('writes a checkpoint of finite %s weights', async (dtype) => {
    const file = path.join(scratch, `${dtype}.safetensors`)
    const bytes = await writeRandomTensors(file, TENSORS, dtype, 1)
    const { networks } = await openCheckpoint([file])
    const stored = await readStored()(networks.transformer!.get('pos_embed')!)
    const values = new Float32Array(stored.length / bytesOf(dtype, 1))
    expect(toFloat32(stored, dtype, 1, values)).toEqual({ finite: true, overflow: false })
    expect((await readFile(file)).length).toBe(bytes)
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length
    const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length)
    expect(Math.abs(mean)).toBeLessThan(1e-3)
    expect(deviation).toBeCloseTo(0.05 / Math.sqrt(3), 3)
  })

  it('writes equal bytes for equal seeds, and different bytes for different seeds', async () => {
    const [first, again, other] = await Promise.all(
      [1, 1, 2].map(async (seed, i) => {
        const file = path.join(scratch, `${i}.safetensors`)
        await writeRandomTensors(file, TENSORS.slice(1), 'BF16', seed)
        return readFile(file)
      }),
    )
    expect(again).toEqual(first)
    expect(other).not.toEqual(first)
  })
})

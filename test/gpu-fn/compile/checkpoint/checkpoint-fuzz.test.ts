import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CheckpointError } from '../../../../gpu-fn/compile/checkpoint/error.ts'
import { bytesOf } from '../../../../gpu-fn/compile/checkpoint/formats/dtype.ts'
import { readHeader, type SafetensorsFile } from '../../../../gpu-fn/compile/checkpoint/formats/safetensors.ts'
import type { Checkpoint } from '../../../../gpu-fn/compile/checkpoint/tensor.ts'
import { openCheckpoint } from '../../../../gpu-fn/models/sd35/sd35.ts'
import { createSeededRandom, type Header, mutate } from '../../../support/checkpoints/mutate.ts'
import { packHeader, packTensors, type TensorContent } from '../../../support/checkpoints/safetensors-file.ts'
import { FUZZ_FILES } from '../../../support/fuzz-files.ts'

const MEMORY_LIMIT = 64e6

const half: TensorContent = { dtype: 'F16', shape: [2, 3] }
const BASES: Record<string, TensorContent>[] = [
  {
    'model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight': { dtype: 'F8_E4M3', shape: [4, 2] },
    'model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.scale_weight': {
      dtype: 'F32',
      shape: [],
      data: new Uint8Array(Float32Array.of(0.5).buffer),
    },
    'first_stage_model.decoder.mid.attn_1.q.weight': { dtype: 'BF16', shape: [2, 2, 1, 1] },
    'text_encoders.t5xxl.transformer.shared.weight': half,
    'text_encoders.t5xxl.transformer.encoder.embed_tokens.weight': half,
    'text_encoders.clip_l.transformer.text_model.embeddings.position_ids': { dtype: 'I64', shape: [1, 7] },
  },
  {
    'transformer_blocks.0.attn.to_q.weight': half,
    'transformer_blocks.0.attn.to_k.weight': half,
    'transformer_blocks.0.attn.to_v.weight': half,
    'transformer_blocks.0.norm1_context.linear.weight': { dtype: 'F16', shape: [4, 2] },
    'norm_out.linear.bias': { dtype: 'F32', shape: [4] },
  },
]

let scratch = ''
beforeAll(async () => {
  scratch = await mkdtemp(path.join(os.tmpdir(), 'octet-fuzz-'))
})
afterAll(() => rm(scratch, { recursive: true, force: true }))

/** The header of a well-formed file, and the bytes behind it. */
function unpack(file: Uint8Array): { header: Header; data: Uint8Array } {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true))
  const header = JSON.parse(Buffer.from(file.subarray(8, 8 + length)).toString()) as Header
  return { header, data: file.subarray(8 + length) }
}

/** Undefined for a refused checkpoint. Any error other than a CheckpointError fails the test. */
async function allowRefusal<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise
  } catch (error) {
    if (error instanceof CheckpointError && error.message.length < 2000) return undefined
    throw error
  }
}

const computeProduct = (shape: readonly number[]) => shape.reduce((total, axis) => total * axis, 1)

function expectConsistent({ tensors, bytes }: SafetensorsFile): void {
  let end = bytes
  for (const { offset, bytes: size, shape } of [...tensors.values()].toSorted(
    (a, b) => b.offset - a.offset || b.bytes - a.bytes,
  )) {
    expect(offset + size).toBe(end)
    expect(Number.isSafeInteger(computeProduct(shape))).toBe(true)
    end = offset
  }
  expect(end).toBeGreaterThanOrEqual(8)
}

function expectReadable(checkpoint: Checkpoint, fileBytes: number): void {
  for (const { parts, shape } of Object.values(checkpoint.networks).flatMap((tensors) => [...tensors.values()])) {
    const values = parts.reduce((sum, { bytes, dtype }) => sum + bytes / bytesOf(dtype, 1), 0)
    expect(values).toBe(computeProduct(shape))
    for (const { offset, bytes, scale } of parts) {
      expect(offset + bytes).toBeLessThanOrEqual(fileBytes)
      expect(typeof scale === 'number' ? scale : Math.min(...scale)).toBeGreaterThan(0)
    }
  }
}

describe('damaged checkpoints', () => {
  it(`${FUZZ_FILES} of them are valid or refused with a CheckpointError`, async () => {
    const random = createSeededRandom(35)
    const bases = BASES.map((tensors) => unpack(packTensors(tensors)))
    const file = path.join(scratch, 'x.safetensors')
    let sound = 0
    let opened = 0
    let memory = 0
    for (let i = 0; i < FUZZ_FILES; i++) {
      const { header, data } = random.pick(bases)
      const bytes = mutate(random, header, (json, length) => Buffer.concat([packHeader(json, 0, length), data]))
      await writeFile(file, bytes)
      const headerFound = await allowRefusal(readHeader(file))
      const checkpoint = await allowRefusal(openCheckpoint([file]))
      if (headerFound) {
        sound++
        expectConsistent(headerFound)
      }
      if (checkpoint) {
        opened++
        expect(headerFound).toBeDefined()
        expectReadable(checkpoint, bytes.length)
      }
      memory = Math.max(memory, process.memoryUsage().arrayBuffers)
    }
    expect(memory).toBeLessThan(MEMORY_LIMIT)
    expect(sound).toBeGreaterThan(FUZZ_FILES / 50)
    expect(sound).toBeLessThan(FUZZ_FILES / 2)
    expect(opened).toBeGreaterThan(0)
    expect(opened).toBeLessThan(sound)
  })
})

import { mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { CheckpointError } from '../../../../gpu-fn/compile/checkpoint/error.ts'
import { openCheckpoint } from '../../../../gpu-fn/models/sd35/sd35.ts'
import { createSeededRandom, type Header, mutate } from '../../../support/checkpoints/mutate.ts'
import type { TensorContent } from '../../../support/checkpoints/safetensors-file.ts'
import { FUZZ_FILES } from '../../../support/fuzz-files.ts'
import { useScratch } from '../../../support/scratch.ts'

const MEMORY_LIMIT = 64e6

const scratch = useScratch()
const half: TensorContent = { dtype: 'F16', shape: [2, 2] }
const NAMES = ['joint_blocks.0.x_block.attn.qkv.weight', 'joint_blocks.0.x_block.attn.proj.weight']

const INDEX: Header = {
  metadata: { total_size: 16, shape: [2, 2] },
  weight_map: { [NAMES[0]!]: 'a.safetensors', [NAMES[1]!]: 'b.safetensors' },
}
/** The damage of `mutate` applies to objects and to arrays of numbers. */
const MODEL_INDEX: Header = {
  transformer: { dtype: 'diffusers', shape: [1, 2] },
  text_encoder_3: { dtype: 'null', data_offsets: [0, 4] },
}

/** Opens `checkpoint` with `FUZZ_FILES` damaged copies of `file`, and returns how many open. */
async function openDamaged(file: string, base: Header, checkpoint: string, seed: number): Promise<number> {
  const start = base === MODEL_INDEX ? '{"_class_name":"StableDiffusion3Pipeline",' : '{'
  const random = createSeededRandom(seed)
  let [opened, memory] = [0, 0]
  for (let i = 0; i < FUZZ_FILES; i++) {
    await writeFile(
      file,
      mutate(random, base, (json) => Buffer.from(json.replace('{', start))),
    )
    const outcome = await openCheckpoint([checkpoint]).catch((error: unknown) => error)
    if (!(outcome instanceof Error)) opened++
    else if (!(outcome instanceof CheckpointError)) throw outcome
    else expect(outcome.message.length).toBeLessThan(2000)
    memory = Math.max(memory, process.memoryUsage().arrayBuffers)
  }
  expect(memory).toBeLessThan(MEMORY_LIMIT)
  return opened
}

describe('damaged JSON files', () => {
  it(`${FUZZ_FILES} index files are valid or refused with a CheckpointError`, async () => {
    await scratch.write('a.safetensors', { [NAMES[0]!]: half })
    await scratch.write('b.safetensors', { [NAMES[1]!]: half })
    const file = path.join(scratch.directory, 'model.safetensors.index.json')
    const opened = await openDamaged(file, INDEX, file, 16)
    expect(opened).toBeGreaterThan(FUZZ_FILES / 100)
    expect(opened).toBeLessThan(FUZZ_FILES)
  })

  it(`${FUZZ_FILES} model_index.json are valid or refused with a CheckpointError`, async () => {
    await mkdir(path.join(scratch.directory, 'transformer'))
    await scratch.write('transformer/diffusion_pytorch_model.safetensors', { [NAMES[0]!]: half })
    const opened = await openDamaged(
      path.join(scratch.directory, 'model_index.json'),
      MODEL_INDEX,
      scratch.directory,
      17,
    )
    expect(opened).toBeGreaterThan(FUZZ_FILES / 100)
    expect(opened).toBeLessThan(FUZZ_FILES)
  })
})

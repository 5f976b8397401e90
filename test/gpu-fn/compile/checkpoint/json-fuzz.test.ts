import { mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { CheckpointError } from '../../../../gpu-fn/compile/checkpoint/error.ts'
import type { Tensor } from '../../../../gpu-fn/compile/checkpoint/tensor.ts'
import {
  deriveClip,
  deriveMMDiT,
  deriveScheduler,
  deriveT5,
  deriveVae,
} from '../../../../gpu-fn/models/sd35/configurations.ts'
import { openCheckpoint } from '../../../../gpu-fn/models/sd35/sd35.ts'
import { writeTinyCheckpoint } from '../../../../infra/checkpoints/tiny/checkpoint.ts'
import {
  clipConfig,
  modelIndex,
  schedulerConfig,
  t5Config,
  transformerConfig,
  vaeConfig,
} from '../../../../infra/checkpoints/tiny/configs.ts'
import { TINY_VARIANTS } from '../../../../infra/checkpoints/tiny/variants.ts'
import { mutateJson, type Random, seededRandom } from '../../../support/checkpoints/mutate.ts'
import type { Stored } from '../../../support/checkpoints/safetensors-file.ts'
import { useScratch } from '../../../support/scratch.ts'

const FILES = 10_000
const MEMORY_LIMIT = 64e6
const scratch = useScratch()
const half: Stored = { dtype: 'F16', shape: [2, 2] }

type Json = Record<string, unknown>

/** Damages `content` many times. Each is refused with a CheckpointError, or `read` returns; returns how many it returned for. */
async function fuzz(content: Json, read: (bytes: Uint8Array, random: Random) => Promise<unknown>): Promise<number> {
  const random = seededRandom(16)
  let [sound, memory] = [0, 0]
  for (let i = 0; i < FILES; i++) {
    const outcome = await read(mutateJson(random, content), random).then(
      () => null,
      (error: unknown) => error,
    )
    if (outcome === null) sound++
    else if (!(outcome instanceof CheckpointError) || outcome.message.length >= 2000) throw outcome
    memory = Math.max(memory, process.memoryUsage().arrayBuffers)
  }
  expect(memory).toBeLessThan(MEMORY_LIMIT)
  return sound
}

describe(`${FILES} damaged files of each kind are refused with a CheckpointError, or are sound`, () => {
  it('model_index.json', async () => {
    await mkdir(path.join(scratch.directory, 'transformer'))
    await scratch.write('transformer/diffusion_pytorch_model.safetensors', {
      'transformer_blocks.0.attn.norm_q.weight': half,
    })
    const sound = await fuzz(modelIndex(true), async (bytes) => {
      await writeFile(path.join(scratch.directory, 'model_index.json'), bytes)
      await openCheckpoint([scratch.directory])
    })
    expect(sound).toBeGreaterThan(FILES / 10)
    expect(sound).toBeLessThan(FILES)
  })

  it('an index of shards', async () => {
    const folder = path.join(scratch.directory, 'transformer')
    await mkdir(folder)
    const weightMap: Json = {}
    for (const i of [1, 2, 3]) {
      const [name, file] = [
        `transformer_blocks.${i}.attn.norm_q.weight`,
        `diffusion_pytorch_model-0000${i}-of-00003.safetensors`,
      ]
      await scratch.write(`transformer/${file}`, { [name]: half })
      weightMap[name] = file
    }
    const file = path.join(folder, 'diffusion_pytorch_model.safetensors.index.json')
    const sound = await fuzz({ metadata: { total_size: 24 }, weight_map: weightMap }, async (bytes, random) => {
      await writeFile(file, bytes)
      await openCheckpoint([random.pick([scratch.directory, folder, file])])
    })
    expect(sound).toBeGreaterThan(0)
    expect(sound).toBeLessThan(FILES / 2)
  })

  it('the configurations', async () => {
    const shape = TINY_VARIANTS['tiny-medium']
    const directory = await writeTinyCheckpoint(path.join(scratch.directory, 'tiny'), { variant: 'tiny-medium' })
    const { networks } = await openCheckpoint([directory])
    const tensorsOf = (network: string): Map<string, Tensor> => networks[network]!
    const kinds: [Json, (config: Json) => unknown][] = [
      [transformerConfig(shape), (config) => deriveMMDiT(tensorsOf('transformer'), config)],
      [clipConfig(shape.clipL), (config) => deriveClip('clip_l', tensorsOf('clip_l'), config)],
      [{ text_config: clipConfig(shape.clipG) }, (config) => deriveClip('clip_g', tensorsOf('clip_g'), config)],
      [t5Config(shape.t5), (config) => deriveT5(tensorsOf('t5'), config)],
      [vaeConfig(shape), (config) => deriveVae(tensorsOf('vae'), config)],
      [schedulerConfig(shape), (config) => deriveScheduler(config, 3)],
    ]
    for (const [content, derive] of kinds) {
      const sound = await fuzz(content, async (bytes) => {
        let config: Json
        try {
          config = JSON.parse(Buffer.from(bytes).toString())
        } catch {
          return
        }
        if (typeof config === 'object' && config !== null && !Array.isArray(config)) derive(config)
      })
      expect(sound).toBeGreaterThan(0)
    }
  })
})

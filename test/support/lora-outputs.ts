// Computes the outputs that test/golden/scripts/lora.py stores, with the open pipeline of a tiny checkpoint.
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import type { OpenPipeline } from '../../gpu-fn/engine/package/open-pipeline.ts'
import {
  clipIds,
  createPseudoRandom,
  createT5Ids,
  type FloatTensor,
  readTensors,
  sampleRows,
} from './checkpoints/tensors.ts'

export const LORAS = path.join(import.meta.dirname, '../golden/lora')

/** Outputs of diffusers and PEFT. */
export const readLoraGoldens = () => readTensors(path.join(LORAS, 'outputs.golden.safetensors'))

/** One velocity, and the states of each text encoder. */
export async function computeNetworkOutputs(pipeline: OpenPipeline): Promise<Record<string, FloatTensor>> {
  const { latent: about, text, position } = pipeline.package.manifest
  const inputs = {
    timesteps: { dims: [1], data: Float32Array.of(602.25) },
    prompt_embeds: createPseudoRandom([1, 90, text.joint_width], 2),
    pooled: createPseudoRandom([1, text.pooled_width], 3),
  }
  const { modulation, context } = await pipeline.conditioning.runOnDevice(inputs)
  const latent = createPseudoRandom([1, about.channels, 8, 12], 1)
  const table = position.file
    ? { position: await readPositions(pipeline, 8 / about.patch_size, 12 / about.patch_size) }
    : {}
  const step = { latent, modulation: modulation!.row(0), context: context!, ...table }
  const { velocity } = await pipeline.transformer.run(step, { only: ['velocity'] })
  const outputs: Record<string, FloatTensor> = { velocity: velocity as FloatTensor }
  for (const { about: encoder, session } of pipeline.encoders) {
    const ids = encoder.name === 't5' ? createT5Ids(1, 77, 5) : clipIds([9], 4, encoder.name === 'clip_l' ? 999 : 0)
    const { hidden, pooled } = await session.run({ input_ids: ids })
    outputs[`${encoder.name}.hidden`] = sampleRows(hidden as FloatTensor, 11)
    if (pooled) outputs[`${encoder.name}.pooled`] = pooled as FloatTensor
  }
  return outputs
}

/** The middle [h·w, D] of a package's position table. */
async function readPositions({ package: pkg }: OpenPipeline, h: number, w: number): Promise<FloatTensor> {
  const { max, width, file } = pkg.manifest.position
  const table = new Float32Array(new Uint8Array(await readFile(path.join(pkg.directory, file!))).buffer)
  const [top, left] = [(max - h) >> 1, (max - w) >> 1]
  const data = new Float32Array(h * w * width)
  for (let y = 0; y < h; y++) {
    const start = ((top + y) * max + left) * width
    data.set(table.subarray(start, start + w * width), y * w * width)
  }
  return { dims: [h * w, width], data }
}

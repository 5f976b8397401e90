// Adapters (LoRAs) with random matrices.
import path from 'node:path'
import { compileLora } from '../../../gpu-fn/compile/lora/lora.ts'
import type { LoraPackage, Manifest } from '../../../gpu-fn/manifest.ts'
import { drawGaussianNoise } from '../../../gpu-fn/pipeline/noise.ts'
import { openLora } from '../../../gpu-fn/weights/additions/lora-packages.ts'
import { writeSafetensors } from '../../checkpoints/write-safetensors.ts'

/** Relative magnitude of the random matrices. */
const STRENGTH = 0.02
const ADAPTED = /^(joint_blocks\.\d+\.\w+_block\.(attn2?\.(qkv|proj)|mlp\.fc[12]))\.weight(?:\[\d+:(\d+)\])?$/

/** Compiles an adapter for all attention layers and MLPs to `directory`. It is named `random-SEED`. */
export async function createRandomLora(
  directory: string,
  base: Manifest,
  rank: number,
  seed: number,
): Promise<LoraPackage> {
  const tensors = base.weights[base.networks.transformer!.weights!]!.flatMap(({ name, shape }) => {
    const [, module, , , end] = ADAPTED.exec(name) ?? []
    if (!module) return []
    const [rows, columns] = [Number(end ?? shape[0]), shape[1]!]
    const createRandom = (part: string, dims: [number, number], at: number) => ({
      name: `diffusion_model.${module}.lora_${part}.weight`,
      shape: dims,
      data: drawGaussianNoise(seed * 1000 + at, dims[0] * dims[1]).map((value) => value * STRENGTH),
    })
    return [createRandom('A', [rank, columns], 0), createRandom('B', [rows, rank], 1)]
  })
  const name = `random-${seed}`
  const file = path.join(directory, `${name}.safetensors`)
  await writeSafetensors(file, tensors, 'BF16')
  const out = path.join(directory, name)
  await compileLora({ lora: file, base, out, name })
  return openLora(out)
}

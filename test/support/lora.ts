// Adapters compiled for a test.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { onTestFinished } from 'vitest'
import { compileLora } from '../../gpu-fn/compile/lora/lora.ts'
import type { LoraPackage } from '../../gpu-fn/manifest.ts'
import { drawGaussianNoise } from '../../gpu-fn/pipeline/noise.ts'
import { openLora } from '../../gpu-fn/weights/additions/lora-packages.ts'
import { openPackage } from '../../gpu-fn/weights/packages.ts'
import { type StoredDtype, writeSafetensors } from '../../infra/checkpoints/write-safetensors.ts'

const STRENGTH = 0.08
type RandomLora = { rank: number; blocks: number; dtype: StoredDtype }

/** Writes a random LoRA for the image attention of the first `blocks` blocks, with diffusers' names. */
export async function writeRandomLora(
  file: string,
  width: number,
  { rank, blocks, dtype }: RandomLora = { rank: 4, blocks: 6, dtype: 'BF16' },
): Promise<void> {
  const createMatrix = (name: string, shape: [number, number], seed: number) => {
    const data = drawGaussianNoise(seed, shape[0] * shape[1]).map((value) => value * STRENGTH)
    return { name, shape, data }
  }
  const modules = Array.from({ length: blocks }, (_, i) =>
    ['attn.to_q', 'attn.to_k', 'attn.to_v', 'attn.to_out.0'].map(
      (name) => `transformer.transformer_blocks.${i}.${name}`,
    ),
  ).flat()
  const tensors = modules.flatMap((module, i) => [
    createMatrix(`${module}.lora_A.weight`, [rank, width], 2 * i),
    createMatrix(`${module}.lora_B.weight`, [width, rank], 2 * i + 1),
  ])
  await writeSafetensors(file, tensors, dtype)
}

/** Compiles a LoRA file for the package in `base`, in a directory that the test removes. */
export async function compileTestLora(file: string, base: string, name = 'tested'): Promise<LoraPackage> {
  const directory = await mkdtemp(path.join(tmpdir(), 'octet-lora-'))
  onTestFinished(() => rm(directory, { recursive: true }))
  const { manifest } = await openPackage(base)
  const out = path.join(directory, 'package')
  await compileLora({ lora: file, base: manifest, out, name })
  return openLora(out)
}

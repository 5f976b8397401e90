// Package directory of the GPU function: one model in several tiers, and random adapters.
import { mkdir, symlink } from 'node:fs/promises'
import path from 'node:path'
import { LORAS } from '../../../gpu-fn/weights/additions/lora-packages.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { createRandomLora } from '../additions/random-lora.ts'
import { type GpuVariant, preparePackage, type Target, type Tier } from '../gpu/packages.ts'

export type PackageOptions = {
  /** `nano`, or a variant with random weights. */
  model: GpuVariant | 'nano'
  target: Target
  /** Directory for checkpoints and packages with random weights, which are created if missing. */
  directory: string
  tiers: readonly Tier[]
  /** Number of adapters. */
  loras: number
}

const RANK = 16

/** Links the packages to `root` and compiles adapters there. Returns the model name and the adapter IDs. */
export async function preparePackages(
  { model, target, directory, tiers, loras }: PackageOptions,
  root: string,
): Promise<{ model: string; loras: string[] }> {
  if (model === 'nano' && target !== 'cpu')
    throw new Error(`--model nano has packages for --target cpu only; given ${target}`)
  if (new Set(tiers).size < tiers.length) throw new Error(`--tiers names a tier twice: ${tiers.join(',')}`)
  if (loras > 0 && tiers.includes('fp8-int4'))
    throw new Error('--loras: tier fp8-int4 takes no adapters of MLPs; omit this tier from --tiers')
  const packages: string[] = []
  for (const tier of tiers) {
    const found = await preparePackage({ model, target, directory, tier })
    packages.push(found)
    await symlink(path.resolve(found), path.join(root, tier))
  }
  const { manifest } = await openPackage(packages[0]!)
  const adapters = path.join(root, LORAS)
  await mkdir(adapters)
  const ids: string[] = []
  for (let seed = 1; seed <= loras; seed++)
    ids.push((await createRandomLora(adapters, manifest, RANK, seed)).manifest.name)
  return { model: manifest.model, loras: ids }
}

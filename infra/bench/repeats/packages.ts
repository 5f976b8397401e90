// The packages of one model in several tiers, with random adapters, in one directory for the GPU function.
import { mkdir, symlink } from 'node:fs/promises'
import path from 'node:path'
import { LORAS } from '../../../gpu-fn/weights/lora-packages.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { randomLora } from '../additions/random-lora.ts'
import { type GpuVariant, packageFor, type Target, type Tier } from '../gpu/packages.ts'

export type PackageOptions = {
  /** `nano`, or an architecture with random weights. */
  model: GpuVariant | 'nano'
  target: Target
  /** Checkpoint and packages of models with random weights, created if necessary. */
  directory: string
  tiers: readonly Tier[]
  /** Number of adapters. */
  loras: number
}

const RANK = 16

/** Links the packages and compiles the adapters in `root`. Returns the model's name and the IDs of the adapters. */
export async function preparePackages(
  { model, target, directory, tiers, loras }: PackageOptions,
  root: string,
): Promise<{ model: string; loras: string[] }> {
  if (model === 'nano' && target !== 'cpu')
    throw new Error(`--model nano has packages for --target cpu only; given ${target}`)
  const packages: string[] = []
  for (const tier of tiers) {
    const found = await packageFor({ model, target, directory, tier })
    packages.push(found)
    await symlink(path.resolve(found), path.join(root, tier))
  }
  const { manifest } = await openPackage(packages[0]!)
  const adapters = path.join(root, LORAS)
  await mkdir(adapters)
  const ids: string[] = []
  for (let seed = 1; seed <= loras; seed++) ids.push((await randomLora(adapters, manifest, RANK, seed)).manifest.name)
  return { model: manifest.model, loras: ids }
}

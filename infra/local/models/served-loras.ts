// The adapters that `npm run serve -- --lora FILE` offers: compiled for the served packages, and stored in `loras` beside them.
import { mkdir, stat, symlink } from 'node:fs/promises'
import path from 'node:path'
import { chooseAdditionName } from '../../../gpu-fn/compile/addition-name.ts'
import { CheckpointError } from '../../../gpu-fn/compile/checkpoint/error.ts'
import { compileLora } from '../../../gpu-fn/compile/lora/lora.ts'
import { AdapterError, updatesOf } from '../../../gpu-fn/engine/package/adapters.ts'
import type { LoraPackage, Package } from '../../../gpu-fn/manifest.ts'
import { LORAS, openLora } from '../../../gpu-fn/weights/additions/lora-packages.ts'
import { findPackages, MANIFEST } from '../../../gpu-fn/weights/packages.ts'
import type { LocalCatalog } from '../servers/worker.ts'

type LoraOffers = NonNullable<LocalCatalog['loras']>

const exists = (file: string) => stat(file).then(Boolean, () => false)
const isPackage = (given: string) => exists(path.join(given, MANIFEST))

/** Checks that the files and packages exist. Throws with the path and advice. */
export async function checkLoras(given: readonly string[]): Promise<void> {
  for (const each of given) {
    const found = await stat(each).catch(() => null)
    if (!found) throw new Error(`--lora ${each}: no such file`)
    if (found.isDirectory() && !(await isPackage(each)))
      throw new Error(`--lora ${each}: a directory without ${MANIFEST}; name a safetensors file, or a compiled adapter`)
  }
}

/**
 * Compiles LoRA files for the packages in `directory` and stores them in its `loras`; compiled adapters are linked there. Returns an offer
 * of each, with its compatible models and tiers. Without a compatible package, throws CheckpointError for a file and AdapterError for a
 * compiled adapter.
 */
export async function serveLoras(given: readonly string[], directory: string): Promise<LoraOffers> {
  const packages = await findPackages(directory)
  const root = path.join(directory, LORAS)
  await mkdir(root, { recursive: true })
  const offers: LoraOffers = []
  for (const each of given) {
    const lora = (await isPackage(each)) ? await openLora(each) : await compileFor(packages, each, root)
    const id = lora.manifest.name
    if (offers.some((other) => other.id === id))
      throw new Error(`two of the given adapters are ${id}: rename one of their files`)
    if (await isPackage(each)) await symlink(lora.directory, path.join(root, id))
    const fitting = filterFittingPackages(packages, (pkg) => void updatesOf(pkg, [{ lora, scale: 1 }]))
    offers.push({ id, models: fitting.map(({ manifest: { model, tier } }) => `${model}:${tier}`) })
  }
  return offers
}

/** Compiles a file for the first package that it fits. Throws the error of the first package if it fits none. */
async function compileFor(packages: readonly Package[], lora: string, root: string): Promise<LoraPackage> {
  const name = chooseAdditionName(lora, undefined)
  const out = path.join(root, name)
  if (await exists(out)) throw new Error(`two of the given adapters are ${name}: rename one of their files`)
  const errors: CheckpointError[] = []
  for (const { manifest: base } of packages) {
    try {
      const { notes } = await compileLora({ lora, base, out, name })
      for (const note of notes) console.error(note)
      return await openLora(out)
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error
      errors.push(error)
    }
  }
  throw errors[0]!
}

/** The packages accepted by `requireFitting`. Throws its AdapterError if there are none. */
export function filterFittingPackages(packages: readonly Package[], requireFitting: (pkg: Package) => void): Package[] {
  const errors: AdapterError[] = []
  const fitting = packages.filter((pkg) => {
    try {
      requireFitting(pkg)
      return true
    } catch (error) {
      if (!(error instanceof AdapterError)) throw error
      errors.push(error)
      return false
    }
  })
  if (fitting.length === 0) throw errors[0]!
  return fitting
}

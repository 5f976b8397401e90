// The ControlNets that `npm run serve -- --controlnet PATH` offers: compiled, and stored in `controlnets` beside the served packages.
import { mkdir, stat, symlink } from 'node:fs/promises'
import path from 'node:path'
import { additionName } from '../../../gpu-fn/compile/addition-name.ts'
import { compileControlnet } from '../../../gpu-fn/compile/controlnet.ts'
import { AdapterError, requireFitting } from '../../../gpu-fn/engine/package/adapters.ts'
import type { ControlnetPackage, Package, Target, Tier } from '../../../gpu-fn/manifest.ts'
import { CONTROLNETS, openControlnet } from '../../../gpu-fn/weights/controlnet-packages.ts'
import { findPackages, MANIFEST } from '../../../gpu-fn/weights/packages.ts'
import type { LocalCatalog } from '../servers/worker.ts'

type ControlnetOffers = NonNullable<LocalCatalog['controlnets']>
type Options = { readonly tier: Tier; readonly target: Target }

const exists = (file: string) => stat(file).then(Boolean, () => false)

/** Checks that the paths exist. Throws with the path. */
export async function checkControlnets(given: readonly string[]): Promise<void> {
  for (const each of given)
    if (!(await exists(each))) throw new Error(`--controlnet ${each}: no such file or directory`)
}

/**
 * Compiles ControlNets for the packages in `directory`, stores them in its `controlnets`, and returns an offer of each, with the models that
 * it guides. A compiled one is linked. Throws CheckpointError, and AdapterError for one that guides no package.
 */
export async function serveControlnets(
  given: readonly string[],
  directory: string,
  options: Options,
): Promise<ControlnetOffers> {
  const packages = await findPackages(directory)
  const root = path.join(directory, CONTROLNETS)
  await mkdir(root, { recursive: true })
  const offers: ControlnetOffers = []
  for (const each of given) {
    const isCompiled = await exists(path.join(each, MANIFEST))
    const id = isCompiled ? (await openControlnet(each)).manifest.name : additionName(each, undefined)
    if (offers.some((other) => other.id === id)) throw new Error(`two of the given ControlNets are ${id}: rename one`)
    const out = path.join(root, id)
    if (isCompiled) await symlink(path.resolve(each), out)
    else await compileFor(each, out, options)
    offers.push({ id, models: modelsOf(await openControlnet(out), packages) })
  }
  return offers
}

/** A ControlNet for `cuda` also guides packages for `cuda-fp8`, and has no T5. */
async function compileFor(controlnet: string, out: string, { tier, target }: Options): Promise<void> {
  const own = target === 'cpu' ? 'cpu' : 'cuda'
  const { notes } = await compileControlnet({ controlnet, out, tier: tier === 'fp8-lite' ? 'fp8' : tier, target: own })
  for (const note of notes) console.error(note)
}

/** The models that a ControlNet guides, each once. Throws AdapterError if there are none. */
function modelsOf(controlnet: ControlnetPackage, packages: readonly Package[]): string[] {
  const errors: AdapterError[] = []
  const models = packages.flatMap((pkg) => {
    try {
      requireFitting(pkg, controlnet)
      return [pkg.manifest.model]
    } catch (error) {
      if (!(error instanceof AdapterError)) throw error
      errors.push(error)
      return []
    }
  })
  if (models.length === 0) throw errors[0]!
  return [...new Set(models)]
}

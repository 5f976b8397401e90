// ControlNets of `npm run serve -- --controlnet PATH`: compiled, and stored in `controlnets` next to the served packages.
import { mkdir, stat, symlink } from 'node:fs/promises'
import path from 'node:path'
import { chooseAdditionName } from '../../../gpu-fn/compile/addition-name.ts'
import { compileControlnet } from '../../../gpu-fn/compile/controlnet.ts'
import { hasFp8 } from '../../../gpu-fn/contract.ts'
import { requireFitting } from '../../../gpu-fn/engine/package/adapters.ts'
import type { Target, Tier } from '../../../gpu-fn/manifest.ts'
import { CONTROLNETS, openControlnet } from '../../../gpu-fn/weights/additions/controlnet-packages.ts'
import { findPackages, MANIFEST } from '../../../gpu-fn/weights/packages.ts'
import type { LocalCatalog } from '../servers/worker.ts'
import { filterFittingPackages } from './served-loras.ts'

type ControlnetOffers = NonNullable<LocalCatalog['controlnets']>
type Options = { readonly tier: Tier; readonly target: Target }

const exists = (file: string) => stat(file).then(Boolean, () => false)

/** Throws an Error with the first path that does not exist. */
export async function checkControlnets(given: readonly string[]): Promise<void> {
  for (const each of given)
    if (!(await exists(each))) throw new Error(`--controlnet ${each}: no such file or directory`)
}

/**
 * Compiles ControlNets for the packages in `directory`, stores them in its `controlnets`, and returns their offers with the compatible models.
 * Compiled ControlNets are linked. Throws CheckpointError, and AdapterError for a ControlNet without a compatible package.
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
    const id = isCompiled ? (await openControlnet(each)).manifest.name : chooseAdditionName(each, undefined)
    if (offers.some((other) => other.id === id)) throw new Error(`two of the given ControlNets are ${id}: rename one`)
    const out = path.join(root, id)
    if (isCompiled) await symlink(path.resolve(each), out)
    else await compileFor(each, out, options)
    const controlnet = await openControlnet(out)
    const fitting = filterFittingPackages(packages, (pkg) => requireFitting(pkg, controlnet))
    offers.push({ id, models: [...new Set(fitting.map(({ manifest }) => manifest.model))] })
  }
  return offers
}

/** All tiers with FP8 weights use the fp8 ControlNet, which has no T5 and always has FP8 MLPs. */
async function compileFor(controlnet: string, out: string, { tier, target }: Options): Promise<void> {
  const { notes } = await compileControlnet({ controlnet, out, tier: hasFp8(tier) ? 'fp8' : tier, target })
  for (const note of notes) console.error(note)
}

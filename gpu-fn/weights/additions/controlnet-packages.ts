// Compiled ControlNets on disk: directories in `controlnets`, beside the packages.
import path from 'node:path'
import { type ControlnetManifest, type ControlnetPackage, controlnetManifest } from '../../manifest.ts'
import { assertLayout, MANIFEST, PackageError } from '../packages.ts'
import { findAdditions, openAddition } from './additions.ts'

/** The directory of ControlNets in a directory of packages. */
export const CONTROLNETS = 'controlnets'

/** The ControlNets of a directory of packages, ordered by directory name; none if it has no `controlnets`. Throws PackageError. */
export const findControlnets = (packages: string): Promise<ControlnetPackage[]> =>
  findAdditions(path.join(packages, CONTROLNETS), 'ControlNet', openControlnet)

/** Opens a compiled ControlNet: checks its manifest, and that every file is inside the directory with the stated size. Throws PackageError. */
export async function openControlnet(directory: string): Promise<ControlnetPackage> {
  const opened = await openAddition(directory, controlnetManifest)
  assertConsistent(directory, opened.manifest)
  return opened
}

/** Throws PackageError if the manifest uses a file that it does not list, or states tensors that are not inside their file. */
function assertConsistent(directory: string, { networks, without_kernels, weights, files }: ControlnetManifest): void {
  const used = [...Object.values(networks), ...Object.values(without_kernels ?? {})].flatMap(({ file, weights = [] }) =>
    [file, weights].flat(),
  )
  const unlisted = used.find((file) => !Object.hasOwn(files, file))
  if (unlisted !== undefined)
    throw new PackageError(`${directory}: ${MANIFEST} uses ${unlisted}, which "files" does not list`)
  for (const [file, tensors] of Object.entries(weights)) assertLayout(directory, file, tensors, files[file]?.bytes ?? 0)
}

// Compiled adapters (LoRAs) on disk: directories in `loras`, beside the packages.
import path from 'node:path'
import { computeTensorBytes, countElements } from '../../dtype.ts'
import { type LoraManifest, type LoraPackage, loraManifest } from '../../manifest.ts'
import { MANIFEST, PackageError } from '../packages.ts'
import { findAdditions, openAddition } from './additions.ts'

/** The directory of adapters in a directory of packages. */
export const LORAS = 'loras'

/** The adapters of a directory of packages, ordered by directory name; none if it has no `loras`. Throws PackageError. */
export const findLoras = (packages: string): Promise<LoraPackage[]> =>
  findAdditions(path.join(packages, LORAS), 'adapter', openLora)

/** Opens a compiled adapter: checks its manifest, and that every file is inside the directory with the stated size. Throws PackageError. */
export async function openLora(directory: string): Promise<LoraPackage> {
  const opened = await openAddition(directory, loraManifest)
  assertConsistent(directory, opened.manifest)
  return opened
}

function assertConsistent(directory: string, { modules, factors, graphs, files }: LoraManifest): void {
  const unlisted = [factors, ...Object.values(graphs).flatMap(Object.values<string>)].find(
    (file) => !Object.hasOwn(files, file),
  )
  if (unlisted !== undefined)
    throw new PackageError(`${directory}: ${MANIFEST} uses ${unlisted}, which "files" does not list`)
  const { bytes } = files[factors]!
  for (const { weight, shape, rows, rank, up, down } of modules) {
    const columns = countElements(shape.slice(1))
    const ends = [up.offset + computeTensorBytes(up.dtype, [rank, rows[1] - rows[0]])]
    ends.push(down.offset + computeTensorBytes(down.dtype, [rank, columns]))
    if (!(rows[0] < rows[1] && rows[1] <= shape[0]!) || ends.some((end) => end > bytes))
      throw new PackageError(`${directory}: ${MANIFEST}: the matrices of ${weight} are not inside ${factors}`)
  }
}

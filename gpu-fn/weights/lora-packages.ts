// Compiled adapters (LoRAs) on disk: directories in `loras`, beside the packages.
import { createHash } from 'node:crypto'
import { readdir, realpath } from 'node:fs/promises'
import path from 'node:path'
import { countElements } from '../dtype.ts'
import { FACTOR_BYTES, type LoraManifest, type LoraPackage, loraManifest } from '../manifest.ts'
import { directoriesWithManifest, locate, MANIFEST, PackageError, parseWith, readManifest } from './packages.ts'

/** The directory of adapters in a directory of packages. */
export const LORAS = 'loras'

/** The adapters of a directory of packages, ordered by directory name; none if it has no `loras`. Throws PackageError. */
export async function findLoras(packages: string): Promise<LoraPackage[]> {
  const root = path.join(packages, LORAS)
  const entries = await readdir(root).catch(() => [])
  const found: LoraPackage[] = []
  for await (const directory of directoriesWithManifest(root, entries)) found.push(await openLora(directory))
  const names = found.map(({ manifest }) => manifest.name)
  const duplicate = names.find((name, i) => names.indexOf(name) !== i)
  if (duplicate !== undefined) throw new PackageError(`${root} has more than one adapter ${duplicate}: keep one`)
  return found
}

/** Opens a compiled adapter: checks its manifest, and that every file is inside the directory with the stated size. Throws PackageError. */
export async function openLora(directory: string): Promise<LoraPackage> {
  const bytes = await readManifest(directory)
  const manifest = parseWith(loraManifest, directory, bytes)
  const root = await realpath(directory)
  for (const [name, { bytes }] of Object.entries(manifest.files)) await locate(root, name, bytes)
  assertConsistent(directory, manifest)
  return { directory: root, manifest, digest: createHash('sha256').update(bytes).digest('hex') }
}

function assertConsistent(directory: string, { modules, factors, graphs, files }: LoraManifest): void {
  const unlisted = [factors, ...Object.values(graphs)].find((file) => !Object.hasOwn(files, file))
  if (unlisted !== undefined)
    throw new PackageError(`${directory}: ${MANIFEST} uses ${unlisted}, which "files" does not list`)
  const { bytes } = files[factors]!
  for (const { weight, shape, rows, rank, up, down } of modules) {
    const columns = countElements(shape.slice(1))
    const ends = [up.offset + (rows[1] - rows[0]) * rank * FACTOR_BYTES[up.dtype]]
    ends.push(down.offset + rank * columns * FACTOR_BYTES[down.dtype])
    if (!(rows[0] < rows[1] && rows[1] <= shape[0]!) || ends.some((end) => end > bytes))
      throw new PackageError(`${directory}: ${MANIFEST}: the matrices of ${weight} are not inside ${factors}`)
  }
}

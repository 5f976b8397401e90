// Compiled adapters (LoRAs) on disk: directories in `loras`, beside the packages.
import { createHash } from 'node:crypto'
import { readdir, realpath, stat } from 'node:fs/promises'
import path from 'node:path'
import * as z from 'zod'
import { countElements } from '../dtype.ts'
import { FACTOR_BYTES, type LoraManifest, type LoraPackage, loraManifest } from '../manifest.ts'
import { locate, MANIFEST, PackageError, parseJson, readManifest } from './packages.ts'

/** The directory of adapters in a directory of packages. */
export const LORAS = 'loras'
const PROBLEM_CHARACTERS = 2_000

/** The adapters of a directory of packages, ordered by directory name; none if it has no `loras`. Throws PackageError. */
export async function findLoras(packages: string): Promise<LoraPackage[]> {
  const root = path.join(packages, LORAS)
  const entries = await readdir(root).catch(() => [])
  const found: LoraPackage[] = []
  for (const name of entries.filter((entry) => !entry.startsWith('.')).sort()) {
    const directory = path.join(root, name)
    const manifest = await stat(path.join(directory, MANIFEST)).catch(() => undefined)
    if (manifest?.isFile()) found.push(await openLora(directory))
  }
  const names = found.map(({ manifest }) => manifest.name)
  const duplicate = names.find((name, i) => names.indexOf(name) !== i)
  if (duplicate !== undefined) throw new PackageError(`${root} has more than one adapter ${duplicate}: keep one`)
  return found
}

/** Opens a compiled adapter: checks its manifest, and that every file is inside the directory with the stated size. Throws PackageError. */
export async function openLora(directory: string): Promise<LoraPackage> {
  const bytes = await readManifest(directory)
  const parsed = loraManifest.safeParse(parseJson(directory, bytes))
  if (!parsed.success) {
    const problems = z.prettifyError(parsed.error).slice(0, PROBLEM_CHARACTERS)
    throw new PackageError(`${directory}: ${MANIFEST} is not valid: ${problems}`, { cause: parsed.error })
  }
  const manifest = parsed.data
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

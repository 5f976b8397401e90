// Compiled additions to models on disk, such as LoRAs: directories with a manifest in a folder beside the packages.
import { createHash } from 'node:crypto'
import { readdir, realpath } from 'node:fs/promises'
import type * as z from 'zod'
import { listDirectoriesWithManifest, locate, PackageError, parseWith, readManifest } from '../packages.ts'

type Files = Record<string, { bytes: number; sha256: string }>
type Addition<Manifest> = { directory: string; manifest: Manifest; digest: string }

/** Opens an addition: checks its manifest, and that every file is inside the directory with the stated size. Throws PackageError. */
export async function openAddition<Manifest extends { files: Files }>(
  directory: string,
  schema: z.ZodType<Manifest>,
): Promise<Addition<Manifest>> {
  const bytes = await readManifest(directory)
  const manifest = parseWith(schema, directory, bytes)
  const root = await realpath(directory)
  for (const [name, { bytes }] of Object.entries(manifest.files)) await locate(root, name, bytes)
  return { directory: root, manifest, digest: createHash('sha256').update(bytes).digest('hex') }
}

/**
 * The additions in a folder, ordered by directory name; none if there is no folder. Throws PackageError, including for two of the same
 * name.
 */
export async function findAdditions<Found extends { manifest: { name: string } }>(
  folder: string,
  kind: string,
  open: (directory: string) => Promise<Found>,
): Promise<Found[]> {
  const entries = await readdir(folder).catch(() => [])
  const found: Found[] = []
  for await (const directory of listDirectoriesWithManifest(folder, entries)) found.push(await open(directory))
  const names = found.map(({ manifest }) => manifest.name)
  const duplicate = names.find((name, i) => names.indexOf(name) !== i)
  if (duplicate !== undefined) throw new PackageError(`${folder} has more than one ${kind} ${duplicate}: keep one`)
  return found
}

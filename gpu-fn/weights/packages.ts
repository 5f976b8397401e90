// Compiled models on disk: a directory with manifest.json and the files that it lists.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, readFile, realpath, stat } from 'node:fs/promises'
import path from 'node:path'
import { pipeline } from 'node:stream/promises'
import * as z from 'zod'
import { computeTensorBytes } from '../dtype.ts'
import {
  IMAGE_NETWORKS,
  type Manifest,
  manifest as manifestSchema,
  type Package,
  type StoredTensor,
} from '../manifest.ts'

/** An unusable package; the message names the file and the problem. */
export class PackageError extends Error {
  override name = 'PackageError' as const
}

export const MANIFEST = 'manifest.json'
/** SD3.5 Large's manifest has some 300 kB, most of it the layout of its weights. */
export const MANIFEST_BYTES = 4 << 20
const PROBLEM_CHARACTERS = 2_000

/**
 * Opens a package: checks its manifest, and that every file is inside the directory with the stated size. `verify` also checks the SHA-256
 * of every file. Throws `PackageError`.
 */
export async function openPackage(directory: string, options: { verify?: boolean } = {}): Promise<Package> {
  const bytes = await readManifest(directory)
  const manifest = parseManifest(directory, bytes)
  assertConsistent(directory, manifest)
  const root = await realpath(directory)
  for (const [name, expected] of Object.entries(manifest.files)) {
    const file = await locate(root, name, expected.bytes)
    if (options.verify && (await sha256(file)) !== expected.sha256)
      fail(directory, `${name} does not have the SHA-256 that ${MANIFEST} states`)
  }
  return { directory: root, manifest, digest: createHash('sha256').update(bytes).digest('hex') }
}

/**
 * Opens the package at `root`, or every package directly below it, ordered by directory name; directories without a manifest, or with a
 * name that starts with a dot, are skipped. Throws `PackageError`.
 */
export async function findPackages(root: string): Promise<Package[]> {
  const entries = await readdir(root, { withFileTypes: true }).catch((cause: unknown) => {
    throw new PackageError(`${root} cannot be listed`, { cause })
  })
  if (entries.some(({ name }) => name === MANIFEST)) return [await openPackage(root)]
  const names = entries.map(({ name }) => name)
  const packages: Package[] = []
  for await (const directory of listDirectoriesWithManifest(root, names)) packages.push(await openPackage(directory))
  return packages
}

/** The directories with a manifest among the entries of `root`, ordered by name; without names that start with a dot. */
export async function* listDirectoriesWithManifest(root: string, entries: readonly string[]): AsyncGenerator<string> {
  for (const name of entries.filter((entry) => !entry.startsWith('.')).sort()) {
    const directory = path.join(root, name)
    const found = await stat(path.join(directory, MANIFEST)).catch(() => undefined)
    if (found?.isFile()) yield directory
  }
}

function fail(directory: string, problem: string, cause?: unknown): never {
  throw new PackageError(`${directory}: ${problem}`, { cause })
}

/** Reads a package's manifest of at most MANIFEST_BYTES. Throws PackageError. */
export async function readManifest(directory: string): Promise<Uint8Array> {
  try {
    const file = path.join(directory, MANIFEST)
    const { size } = await stat(file)
    if (size > MANIFEST_BYTES) fail(directory, `${MANIFEST} has ${size} bytes; at most ${MANIFEST_BYTES} are allowed`)
    return await readFile(file)
  } catch (cause) {
    if (cause instanceof PackageError) throw cause
    return fail(directory, `${MANIFEST} cannot be read`, cause)
  }
}

/** Parses a manifest; `directory` appears in errors. Throws PackageError. */
export const parseManifest = (directory: string, bytes: Uint8Array): Manifest =>
  parseWith(manifestSchema, directory, bytes)

/** Parses a manifest with the schema of its kind; `directory` appears in errors. Throws PackageError. */
export function parseWith<Parsed>(schema: z.ZodType<Parsed>, directory: string, bytes: Uint8Array): Parsed {
  const parsed = schema.safeParse(parseJson(directory, bytes))
  if (!parsed.success) {
    const problems = z.prettifyError(parsed.error).slice(0, PROBLEM_CHARACTERS)
    fail(directory, `${MANIFEST} is not valid: ${problems}`, parsed.error)
  }
  return parsed.data
}

/** The JSON of a manifest; `directory` appears in errors. Throws PackageError. */
function parseJson(directory: string, bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (cause) {
    return fail(directory, `${MANIFEST} is not JSON`, cause)
  }
}

/** Throws PackageError if parts of the manifest contradict each other. */
function assertConsistent(directory: string, manifest: Manifest): void {
  const { networks, files, text, position, weights, control } = manifest
  const missing = IMAGE_NETWORKS.find((network) => !networks[network])
  if (missing) fail(directory, `${MANIFEST} has no network ${missing}`)
  for (const { name, graphs } of text.encoders) {
    const absent = graphs.find((graph) => !networks[graph])
    if (absent) fail(directory, `${MANIFEST} has the text encoder ${name} without its network ${absent}`)
  }
  if (!position.file && networks.transformer!.inputs.some(({ name }) => name === 'position'))
    fail(directory, `${MANIFEST} has no position.file for the input position of transformer`)
  const controlled = [control, control?.without_kernels].flatMap((graphs) =>
    graphs ? [graphs.embedding, graphs.transformer] : [],
  )
  const used = [...Object.values(networks), ...controlled].flatMap(({ file, weights = [] }) => [file, weights].flat())
  const unlisted = [...used, ...(position.file ? [position.file] : [])].find((file) => !Object.hasOwn(files, file))
  if (unlisted !== undefined) fail(directory, `${MANIFEST} uses ${unlisted}, which "files" does not list`)
  for (const [file, tensors] of Object.entries(weights)) assertLayout(directory, file, tensors, files[file]?.bytes ?? 0)
}

/** Throws PackageError unless the tensors are in ascending order, without overlaps, and within their file. */
export function assertLayout(directory: string, file: string, tensors: readonly StoredTensor[], bytes: number): void {
  let end = 0
  for (const { name, dtype, shape, offset } of tensors) {
    if (offset < end) fail(directory, `${MANIFEST}: ${name} overlaps the tensor before it in ${file}`)
    end = offset + computeTensorBytes(dtype, shape)
    if (end > bytes) fail(directory, `${MANIFEST}: ${name} extends beyond the end of ${file}`)
  }
}

/** Whether a name is inside a package, without resolving links. */
export function isInside(name: string): boolean {
  const parts = name.split('/')
  return !path.isAbsolute(name) && !/[\\\0]/.test(name) && !parts.some((part) => ['', '.', '..'].includes(part))
}

/** The path of a file after resolving links. Throws PackageError if it is outside of the package or has another size. */
export async function locate(root: string, name: string, bytes: number): Promise<string> {
  if (!isInside(name)) fail(root, `"${name}" is not a path inside the package`)
  const file = await realpath(path.join(root, name)).catch((cause: unknown) => fail(root, `${name} is missing`, cause))
  if (!file.startsWith(root + path.sep)) fail(root, `${name} is a link that leads out of the package`)
  const found = await stat(file)
  if (!found.isFile()) fail(root, `${name} is not a file`)
  if (found.size !== bytes) fail(root, `${name} has ${found.size} bytes; ${MANIFEST} states ${bytes}`)
  return file
}

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(file), hash)
  return hash.digest('hex')
}

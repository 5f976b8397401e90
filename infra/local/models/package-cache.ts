// A cache of compiled packages in .octet/ of the repository, keyed by the content of the sources and shared by all processes.
import { createHash } from 'node:crypto'
import { createReadStream, existsSync } from 'node:fs'
import fs from 'node:fs/promises'
import path from 'node:path'
import { removeDirectory } from '../../../gpu-fn/weights/removal.ts'
import { makeScratch } from '../../command/scratch.ts'

export const ROOT = path.join(import.meta.dirname, '../../..')
/** The directory of Node's compile cache, which shortens the start of commands. */
export const COMPILE_CACHE = path.join(ROOT, '.octet', 'compile-cache')
const HOUR = 3_600_000
const DAY = 24 * HOUR
const CHUNK = 1 << 20

/** A digest, 16 hexadecimal digits, of the files that match `globs`, which are absolute or relative to the repository. */
export async function digestOf(globs: readonly string[]): Promise<string> {
  const files: string[] = []
  for await (const file of fs.glob(globs, { cwd: ROOT })) files.push(file)
  const hash = createHash('sha256')
  for (const file of files.sort()) {
    hash.update(file)
    // A checkpoint's files exceed the largest buffer.
    for await (const chunk of createReadStream(path.resolve(ROOT, file), { highWaterMark: CHUNK })) hash.update(chunk)
  }
  return hash.digest('hex').slice(0, 16)
}

/** A digest of the names, sizes and times of modification of files, which changes with each of them. Reads no content. */
export async function stampOf(globs: readonly string[]): Promise<string> {
  const files: string[] = []
  for await (const file of fs.glob(globs, { cwd: ROOT })) files.push(file)
  const hash = createHash('sha256')
  for (const file of files.sort()) {
    const { size, mtimeNs, ino } = await fs.stat(path.resolve(ROOT, file), { bigint: true })
    hash.update(`${file} ${size} ${mtimeNs} ${ino}\n`)
  }
  return hash.digest('hex').slice(0, 16)
}

/**
 * Creates the directory of one digest and deletes directories of other digests that no process has used for an hour. This process uses the
 * directory until its end.
 */
export async function cacheDirectory(kind: string, digest: string): Promise<string> {
  const states = path.join(ROOT, '.octet', kind)
  const directory = path.join(states, digest)
  const isNew = await fs.mkdir(directory, { recursive: true })
  await keepFresh(directory)
  if (!isNew) return directory
  for (const name of await fs.readdir(states)) {
    const other = path.join(states, name)
    const { mtimeMs } = await fs.stat(other).catch(() => ({ mtimeMs: Date.now() })) // removed by another process
    if (name !== digest && Date.now() - mtimeMs > HOUR) await removeDirectory(other)
  }
  return directory
}

/** Updates the directory's modification time now and periodically, because a running server may open its files at any time. */
async function keepFresh(directory: string): Promise<void> {
  const touch = () => fs.utimes(directory, new Date(), new Date()).catch(() => {})
  await touch()
  setInterval(touch, HOUR / 4).unref()
}

/** Removes temporary paths of killed processes, which may have gigabytes. */
async function removeStale(directory: string): Promise<void> {
  const { dir, base } = path.parse(directory)
  for (const name of await fs.readdir(dir)) {
    const other = path.join(dir, name)
    if (!name.startsWith(`.${base}-`)) continue
    const { mtimeMs } = await fs.stat(other).catch(() => ({ mtimeMs: Date.now() }))
    if (Date.now() - mtimeMs > DAY) await fs.rm(other, { recursive: true, force: true })
  }
}

/**
 * Writes a package with `make` to a temporary path and moves it to `directory`. An existing directory is kept, including one created by
 * another process in the meantime. The temporary path is removed even if the process exits early.
 */
export async function makeOnce(
  directory: string,
  make: (out: string, scratch: string) => Promise<unknown>,
): Promise<void> {
  if (existsSync(directory)) return
  await removeStale(directory)
  await using scratch = makeScratch(`.${path.basename(directory)}-`, path.dirname(directory))
  const out = path.join(scratch.directory, 'package')
  await make(out, scratch.directory)
  await fs.rename(out, directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error // a concurrent process was faster
  })
}

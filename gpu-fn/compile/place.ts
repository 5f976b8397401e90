// Puts a package in place on disk: checks the output directory and the free space, and renames the finished package.
import { rmSync } from 'node:fs'
import fs from 'node:fs/promises'
import path from 'node:path'
import * as z from 'zod'
import { controlnetManifest, loraManifest, manifest } from '../manifest.ts'
import { CheckpointError } from './checkpoint/error.ts'
import { readRegularFile } from './checkpoint/open-regular-file.ts'

/** Bound on a manifest; the largest has some hundred kilobytes. */
export const MANIFEST_BYTES = 64_000_000

/**
 * Calls `write` with an empty directory and then renames that to `out`. On failure `out` is unchanged. Throws CheckpointError if `out` exists
 * and is not a package, if the disk is full, or if it cannot be written.
 */
export async function place<T>(out: string, neededBytes: number, write: (directory: string) => Promise<T>): Promise<T> {
  await assertReplaceable(out)
  await assertSpace(out, neededBytes)
  const partial = siblingOf(out, 'partial')
  try {
    await removeStale(out)
    await fs.rm(partial, { recursive: true, force: true })
    await fs.mkdir(partial, { recursive: true })
    const result = await write(partial)
    await replace(partial, out)
    return result
  } catch (error) {
    throw explain(out, error)
  } finally {
    await fs.rm(partial, { recursive: true, force: true })
  }
}

/** Removes the unfinished package; for signal handlers. */
export const discardPartial = (out: string) => rmSync(siblingOf(out, 'partial'), { recursive: true, force: true })

/** A hidden sibling of `out`, on the same file system. Readers of packages ignore names that start with a dot. */
function siblingOf(out: string, kind: 'partial' | 'old'): string {
  const { dir, base } = path.parse(path.resolve(out))
  return path.join(dir, `.${base}.${kind}-${process.pid}`)
}

/** Removes siblings that killed processes have left. Restores the old package if `out` is missing. */
async function removeStale(out: string): Promise<void> {
  const { dir, base } = path.parse(path.resolve(out))
  const prefix = `.${base}.`
  for (const name of await fs.readdir(dir).catch(() => [])) {
    if (!name.startsWith(prefix)) continue
    // The names of other packages may begin with this one, as `sd3.5` does with `sd3`.
    const [, kind, pid] = /^(partial|old)-(\d+)$/.exec(name.slice(prefix.length)) ?? []
    if (!pid || isAnotherProcess(Number(pid))) continue
    const found = path.join(dir, name)
    const orphaned = kind === 'old' && !(await fs.stat(out).catch(() => null))
    await (orphaned ? fs.rename(found, out) : remove(found, out))
  }
}

/** Removes a sibling. An old package gets the name of a partial one first, because it may be incomplete after an interruption. */
async function remove(found: string, out: string): Promise<void> {
  const partial = siblingOf(out, 'partial')
  await fs.rm(partial, { recursive: true, force: true })
  await fs.rename(found, partial).catch(ignoreAbsence)
  await fs.rm(partial, { recursive: true, force: true })
}

function ignoreAbsence(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error
}

/** Whether a process other than this one runs. Processes in containers often have the ID of their predecessor. */
export function isAnotherProcess(pid: number): boolean {
  if (pid === process.pid) return false
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Throws CheckpointError unless `out` is empty, missing, or a package without other files. */
async function assertReplaceable(out: string): Promise<void> {
  const entries = await fs
    .readdir(out, { recursive: true, withFileTypes: true })
    .catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return []
      throw new CheckpointError(out, `cannot be used as the output directory (${error.code})`, { cause: error })
    })
  if (entries.length === 0) return
  const files = entries
    .filter((entry) => !entry.isDirectory())
    .map(({ parentPath, name }) => path.relative(out, path.join(parentPath, name)))
  const bytes = await readRegularFile(path.join(out, 'manifest.json'), MANIFEST_BYTES).catch(() => null)
  const text = bytes ? new TextDecoder().decode(bytes) : 'null'
  const listed = parseListedFiles(text)
  const stranger = files.find((file) => file !== 'manifest.json' && !listed.has(file))
  if (listed.size === 0 || stranger) {
    const problem = stranger ? `contains ${stranger}, which is not part of a package` : 'exists and is not a package'
    throw new CheckpointError(out, `${problem}; choose an empty or new directory with --out`)
  }
}

const anyManifest = z.union([manifest, loraManifest, controlnetManifest])

function parseListedFiles(text: string): ReadonlySet<string> {
  try {
    const json: unknown = JSON.parse(text)
    return new Set(Object.keys(anyManifest.parse(json).files))
  } catch {
    return new Set()
  }
}

async function assertSpace(out: string, needed: number): Promise<void> {
  let parent = path.dirname(path.resolve(out))
  while (!(await fs.stat(parent).catch(() => null))) parent = path.dirname(parent)
  const { bavail, bsize } = await fs.statfs(parent)
  const formatGigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(3)} GB`
  if (bavail * bsize < needed) {
    const problem = `the disk is full: the package takes ${formatGigabytes(needed)} and ${formatGigabytes(bavail * bsize)} are free`
    throw new CheckpointError(out, problem)
  }
}

function explain(out: string, error: unknown): unknown {
  if (!(error instanceof Error) || !('code' in error) || error instanceof CheckpointError) return error
  const full = error.code === 'ENOSPC' || error.code === 'EDQUOT'
  const problem = full ? 'the disk is full; nothing was written' : `cannot be written (${error.code})`
  return 'syscall' in error ? new CheckpointError(out, problem, { cause: error }) : error
}

/** Directories cannot be exchanged in one call, so an old package is renamed first and removed last. */
async function replace(partial: string, out: string): Promise<void> {
  const old = siblingOf(out, 'old')
  await fs.rename(out, old).catch(ignoreAbsence)
  try {
    await fs.rename(partial, out)
  } catch (error) {
    await fs.rename(old, out).catch(ignoreAbsence)
    throw error
  }
  await remove(old, out)
}

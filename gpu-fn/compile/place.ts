// Where a package goes on disk: what may be replaced, whether it fits, and the rename that puts it there.
import fs from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from './checkpoint-error.ts'

/**
 * Calls `write` with an empty directory and renames it to `out` when it is done. Whatever goes wrong, `out` is as it was before.
 * Throws CheckpointError when `out` is something else than a package, when the disk is full, or when it cannot be written.
 */
export async function place<T>(out: string, neededBytes: number, write: (directory: string) => Promise<T>): Promise<T> {
  await assertReplaceable(out)
  await assertSpace(out, neededBytes)
  const partial = partialPath(out)
  try {
    await fs.rm(partial, { recursive: true, force: true })
    await fs.mkdir(partial, { recursive: true })
    const result = await write(partial)
    await replace(partial, out)
    return result
  } catch (error) {
    throw explained(out, error)
  } finally {
    await fs.rm(partial, { recursive: true, force: true })
  }
}

/** The directory that a package grows in; of no use to anyone once its process has ended. */
export const partialPath = (out: string) => `${path.resolve(out)}.partial-${process.pid}`

/** Only a package or nothing is ever replaced. */
async function assertReplaceable(out: string): Promise<void> {
  const entries = await fs.readdir(out).catch((error: NodeJS.ErrnoException): string[] => {
    if (error.code === 'ENOENT') return []
    throw new CheckpointError(out, `cannot be used as the output directory (${error.code})`, { cause: error })
  })
  if (entries.length > 0 && !entries.includes('manifest.json')) {
    throw new CheckpointError(out, 'exists and is no package; choose an empty or new directory with --out')
  }
}

async function assertSpace(out: string, needed: number): Promise<void> {
  let parent = path.dirname(path.resolve(out))
  while (!(await fs.stat(parent).catch(() => null))) parent = path.dirname(parent)
  const { bavail, bsize } = await fs.statfs(parent)
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(3)} GB`
  if (bavail * bsize < needed) {
    const problem = `the disk is full: the package takes ${gigabytes(needed)} and ${gigabytes(bavail * bsize)} are free`
    throw new CheckpointError(out, problem)
  }
}

function explained(out: string, error: unknown): unknown {
  if (!(error instanceof Error) || !('code' in error) || error instanceof CheckpointError) return error
  const full = error.code === 'ENOSPC' || error.code === 'EDQUOT'
  const problem = full ? 'the disk is full; nothing was written' : `cannot be written (${error.code})`
  return 'syscall' in error ? new CheckpointError(out, problem, { cause: error }) : error
}

/** Directories cannot be swapped in one call, so an old package steps aside first and is removed last. */
async function replace(partial: string, out: string): Promise<void> {
  const old = `${path.resolve(out)}.old-${process.pid}`
  const existed = await fs.rename(out, old).then(
    () => true,
    () => false,
  )
  try {
    await fs.rename(partial, out)
  } catch (error) {
    if (existed) await fs.rename(old, out)
    throw error
  }
  await fs.rm(old, { recursive: true, force: true })
}

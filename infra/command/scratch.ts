// Temporary directories of commands.
import { mkdtempSync, rmSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { runAtExit } from './at-exit.ts'

/** Retries, because a killed process may still be writing. */
const REMOVAL = { recursive: true, force: true, maxRetries: 5 }

export type Scratch = AsyncDisposable & {
  readonly directory: string
  /** Removes the directory at once. */
  remove: () => Promise<void>
  /** Leaves the directory in place at the end of the block and at exit. */
  keep: () => void
}

/**
 * Creates a temporary directory in `parent` whose name begins with `prefix`. It is removed at the end of the block of an `await using`, by
 * `remove`, or at the exit of this process.
 */
export function makeScratch(prefix: string, parent = tmpdir()): Scratch {
  const directory = mkdtempSync(path.join(parent, prefix))
  const cancel = runAtExit(() => rmSync(directory, REMOVAL))
  let isKept = false
  const remove = async () => {
    await rm(directory, REMOVAL)
    cancel()
  }
  const keep = () => {
    isKept = true
    cancel()
  }
  return { directory, remove, keep, [Symbol.asyncDispose]: async () => (isKept ? undefined : remove()) }
}

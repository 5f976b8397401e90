// Files and directories with secrets: accessible to their owner only, regardless of the umask and of how they were created.
import { fchmodSync, fstatSync } from 'node:fs'
import { chmod, link, mkdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'

const OTHERS = 0o077
const formatOctal = (mode: number) => (mode & 0o777).toString(8).padStart(4, '0')

/** Creates a directory with mode 0700, or removes all group and other permissions from an existing one. */
export async function makePrivateDirectory(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 })
  await chmod(directory, 0o700)
}

export type WriteOptions = {
  /** Throw, and change nothing, if the file exists. */
  exclusive?: boolean
}

/** Atomically writes a file with mode 0600. */
export async function writePrivateFile(file: string, text: string, { exclusive = false }: WriteOptions = {}) {
  const fresh = `${file}.${process.pid}.new`
  // A killed process with the same ID may have left one.
  await rm(fresh, { force: true })
  try {
    await writeFile(fresh, text, { mode: 0o600, flag: 'wx' })
    if (exclusive) await link(fresh, file)
    else await rename(fresh, file)
  } finally {
    await rm(fresh, { force: true })
  }
}

/**
 * Removes all group and other permissions from a file with secrets. If it had any, calls `warn`, since others may have read the file.
 * Does nothing if the file does not exist.
 */
export async function tightenFile(file: string, warn: (line: string) => void): Promise<void> {
  const found = await stat(file).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (!found || (found.mode & OTHERS) === 0) return
  await chmod(file, 0o600)
  const name = path.relative(process.cwd(), file)
  warn(`${name} contains secrets and had mode ${formatOctal(found.mode)}: other users of this machine could read it.`)
  warn(`Its mode is now 0600. If others use this machine, rotate the secrets.`)
}

/** Makes standard output private if the shell has redirected it to a file (`… > .dev.vars`). */
export function tightenStandardOutput(): void {
  if (fstatSync(1).isFile()) fchmodSync(1, 0o600)
}

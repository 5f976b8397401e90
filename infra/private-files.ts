// Files and directories with secrets: only their owner may read them, whatever the umask and whoever made them.
import { fchmodSync, fstatSync } from 'node:fs'
import { chmod, link, mkdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'

const OTHERS = 0o077
const octal = (mode: number) => (mode & 0o777).toString(8).padStart(4, '0')

/** Creates a directory that only its owner may open, or takes the rights of all others from an existing one. */
export async function makePrivateDirectory(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 })
  await chmod(directory, 0o700)
}

export type WriteOptions = {
  /** Throw, and change nothing, where the file exists. */
  exclusive?: boolean
}

/** Writes a file with mode 0600, whole or not at all. */
export async function writePrivateFile(file: string, text: string, { exclusive = false }: WriteOptions = {}) {
  const fresh = `${file}.${process.pid}.new`
  try {
    await writeFile(fresh, text, { mode: 0o600, flag: 'wx' })
    if (exclusive) await link(fresh, file)
    else await rename(fresh, file)
  } finally {
    await rm(fresh, { force: true })
  }
}

/**
 * Takes the rights of all others from a file with secrets. `warn` receives one line where there were any: who has read the file until now
 * is unknown. Does nothing where there is no file.
 */
export async function tightenFile(file: string, warn: (line: string) => void): Promise<void> {
  const found = await stat(file).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (!found || (found.mode & OTHERS) === 0) return
  await chmod(file, 0o600)
  const name = path.relative(process.cwd(), file)
  warn(`${name} holds secrets and had mode ${octal(found.mode)}: other users of this machine could read it.`)
  warn(`Its mode is now 0600. If you share the machine with anybody, rotate the secrets.`)
}

/** Makes standard output private where the shell has redirected it into a file: `… > .dev.vars`. */
export function tightenStandardOutput(): void {
  if (fstatSync(1).isFile()) fchmodSync(1, 0o600)
}

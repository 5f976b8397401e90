// What is compiled once for one state of the sources and kept in .octet/ beside package.json, for all processes that ask.
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import fs from 'node:fs/promises'
import path from 'node:path'

export const ROOT = path.join(import.meta.dirname, '../..')
const HOUR = 3_600_000

/** Names one state of the files that match `globs`, absolute or relative to the repository, in 16 hexadecimal digits. */
export async function digestOf(globs: readonly string[]): Promise<string> {
  const files: string[] = []
  for await (const file of fs.glob(globs, { cwd: ROOT })) files.push(file)
  const hash = createHash('sha256')
  for (const file of files.sort()) hash.update(file).update(await fs.readFile(path.resolve(ROOT, file)))
  return hash.digest('hex').slice(0, 16)
}

/** The directory of one state, made now unless it is there. What earlier states left goes, unless a process of this hour may use it. */
export async function cacheDirectory(kind: string, digest: string): Promise<string> {
  const states = path.join(ROOT, '.octet', kind)
  const directory = path.join(states, digest)
  if (!(await fs.mkdir(directory, { recursive: true }))) return directory
  for (const name of await fs.readdir(states)) {
    const other = path.join(states, name)
    const { mtimeMs } = await fs.stat(other)
    if (name !== digest && Date.now() - mtimeMs > HOUR) await fs.rm(other, { recursive: true, force: true })
  }
  return directory
}

/** Has `make` write a package to a path of its own and puts it at `directory`; does nothing when one is there, also by a process beside. */
export async function makeOnce(
  directory: string,
  make: (out: string, scratch: string) => Promise<unknown>,
): Promise<void> {
  if (existsSync(directory)) return
  const scratch = await fs.mkdtemp(path.join(path.dirname(directory), `.${path.basename(directory)}-`))
  try {
    const out = path.join(scratch, 'package')
    await make(out, scratch)
    await fs.rename(out, directory).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error // another process was first
    })
  } finally {
    await fs.rm(scratch, { recursive: true })
  }
}

// Verifies the SHA-256 of a package's files once per machine, since a package has up to 17 GB. Verified files are recorded in the cache
// directory by digest, inode, size and modification time, so a changed file is hashed again.
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import * as z from 'zod'
import { sha256Hex } from '../contract.ts'
import type { Package } from '../manifest.ts'
import { openHasher } from './hasher.ts'
import { PackageError } from './packages.ts'

/** A file's digest differs from its package's manifest. */
export class CorruptFile extends PackageError {
  readonly sha256: string
  constructor(message: string, sha256: string) {
    super(message)
    this.sha256 = sha256
  }
}

export type Verifier = {
  /** Hashes all files not yet verified and calls `onFile` after each. Throws CorruptFile or a file-system error. */
  verify(pkg: Package, onFile?: () => void): Promise<void>
  /** Records files as verified that were hashed during download. */
  trust(files: Iterable<{ file: string; sha256: string }>): Promise<void>
}

const RECORD = 'verified.json'
const RECORD_BYTES = 1 << 20
const REMEMBERED_FILES = 4_096
const HASHERS = 4

/** Stamp of a file → its digest. */
const record = z.record(z.string().max(100), sha256Hex)
type Wanted = { name: string; file: string; bytes: number; sha256: string }

/** The record is stored in `directory`, which is created if needed. If it is not writable, the next process hashes the files again. */
export function createVerifier({ directory, log }: { directory: string; log: Pick<Logger, 'warn'> }): Verifier {
  const at = path.join(directory, RECORD)
  let verified: Map<string, string> | undefined
  /** Stamps of corrupt files by path, so that repeated requests do not hash gigabytes again. */
  const corrupt = new Map<string, string>()

  async function read(): Promise<Map<string, string>> {
    const { size } = await stat(at).catch(() => ({ size: 0 }))
    if (size === 0 || size > RECORD_BYTES) return new Map()
    const parsed = record.safeParse(
      await readFile(at, 'utf8')
        .then(JSON.parse)
        .catch(() => null),
    )
    return new Map(parsed.success ? Object.entries(parsed.data) : [])
  }

  async function remember(entries: readonly [stamp: string, sha256: string][]): Promise<void> {
    if (entries.length === 0) return
    // Read again to keep entries that other processes have added.
    const merged = new Map([...(await read()), ...(verified ?? [])])
    for (const [stamp, sha256] of entries) {
      merged.delete(stamp)
      merged.set(stamp, sha256)
    }
    verified = new Map([...merged].slice(-REMEMBERED_FILES))
    const scratch = `${at}.${process.pid}`
    try {
      await mkdir(directory, { recursive: true })
      await writeFile(scratch, JSON.stringify(Object.fromEntries(verified)), { mode: 0o600 })
      await rename(scratch, at)
    } catch (error) {
      log.warn({ err: error }, 'verified packages cannot be remembered, and will be hashed at each start')
    }
  }

  async function verifyFile(pkg: Package, wanted: Wanted, hash: (wanted: Wanted) => Promise<string>) {
    const stamp = await stampOf(wanted.file)
    const fail = () => {
      corrupt.set(wanted.file, stamp)
      throw new CorruptFile(
        `${pkg.directory}: ${wanted.name} does not have the SHA-256 that its manifest states`,
        wanted.sha256,
      )
    }
    if (corrupt.get(wanted.file) === stamp || (await hash(wanted)) !== wanted.sha256) fail()
    return [stamp, wanted.sha256] as [string, string]
  }

  async function unverified(pkg: Package): Promise<Wanted[]> {
    verified ??= await read()
    const wanted: Wanted[] = []
    for (const [name, { bytes, sha256 }] of Object.entries(pkg.manifest.files)) {
      const file = path.join(pkg.directory, name)
      if (verified.get(await stampOf(file)) !== sha256) wanted.push({ name, file, bytes, sha256 })
    }
    // Popped from the end: largest first, so that the threads finish together.
    return wanted.toSorted((a, b) => a.bytes - b.bytes)
  }

  return {
    async verify(pkg, onFile) {
      const queue = await unverified(pkg)
      if (queue.length === 0) return
      const done: [string, string][] = []
      const work = async () => {
        const hasher = openHasher()
        const hash = ({ file, bytes }: Wanted) => {
          hasher.tell({ file, bytes, whole: true })
          return hasher.digestOf(file)
        }
        try {
          for (let next = queue.pop(); next; next = queue.pop()) {
            done.push(await verifyFile(pkg, next, hash))
            onFile?.()
          }
        } finally {
          queue.length = 0
          await hasher.close()
        }
      }
      const ends = await Promise.allSettled(Array.from({ length: Math.min(HASHERS, queue.length) }, work))
      await remember(done)
      const failed = ends.find((end) => end.status === 'rejected')
      if (failed) throw failed.reason
    },
    async trust(files) {
      const entries: [string, string][] = []
      for (const { file, sha256 } of files) entries.push([await stampOf(file), sha256])
      await remember(entries)
    },
  }
}

/** Changes whenever the file does. */
async function stampOf(file: string): Promise<string> {
  const { ino, size, mtimeNs } = await stat(file, { bigint: true })
  return `${ino} ${size} ${mtimeNs}`
}

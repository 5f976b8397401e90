// Verifies the SHA-256 of a package's files once per machine, since a package has up to 17 GB. Verified files are recorded in the cache
// directory by digest, inode, size and modification time, so a changed file is hashed again.
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import * as z from 'zod'
import { sha256Hex } from '../contract.ts'
import type { LoraPackage, Package } from '../manifest.ts'
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

const RECORD = 'verified.json'
const RECORD_BYTES = 1 << 20
const REMEMBERED_FILES = 4_096
const HASHERS = 4

/** Stamp of a file → its digest. */
const record = z.record(z.string().max(100), sha256Hex)
type VerifiedPackage = Pick<Package, 'directory'> & { manifest: Pick<LoraPackage['manifest'], 'files'> }
type StampedDigest = [stamp: string, sha256: string]
type PendingFile = { name: string; file: string; bytes: number; sha256: string }
type VerifierOptions = { directory: string; log: Pick<Logger, 'warn'> }

export class Verifier {
  readonly #record: VerifiedRecord
  /** Stamps of corrupt files by path, so that repeated requests do not hash gigabytes again. */
  readonly #corrupt = new Map<string, string>()

  /** The record is stored in `directory`, which is created if needed. If it is not writable, the next process hashes the files again. */
  constructor(options: VerifierOptions) {
    this.#record = new VerifiedRecord(options)
  }

  /** Hashes all files not yet verified and calls `onFile` after each. Throws CorruptFile or a file-system error. */
  async verify(pkg: VerifiedPackage, onFile?: () => void): Promise<void> {
    const queue = await this.#listUnverified(pkg)
    if (queue.length === 0) return
    const done: StampedDigest[] = []
    const threads = Array.from({ length: Math.min(HASHERS, queue.length) }, () =>
      this.#hashAll(pkg, queue, (verified) => {
        done.push(verified)
        onFile?.()
      }),
    )
    const ends = await Promise.allSettled(threads)
    await this.#record.add(done)
    const failed = ends.find((end) => end.status === 'rejected')
    if (failed) throw failed.reason
  }

  /** Records files as verified that were hashed during download. */
  async trust(files: Iterable<{ file: string; sha256: string }>): Promise<void> {
    const entries: StampedDigest[] = []
    for (const { file, sha256 } of files) entries.push([await stampOf(file), sha256])
    await this.#record.add(entries)
  }

  async #listUnverified(pkg: VerifiedPackage): Promise<PendingFile[]> {
    const verified = await this.#record.entries()
    const pending: PendingFile[] = []
    for (const [name, { bytes, sha256 }] of Object.entries(pkg.manifest.files)) {
      const file = path.join(pkg.directory, name)
      if (verified.get(await stampOf(file)) !== sha256) pending.push({ name, file, bytes, sha256 })
    }
    // Sorted by size and popped from the end, largest first, so that the threads finish together.
    return pending.toSorted((a, b) => a.bytes - b.bytes)
  }

  /** Hashes files of the queue on one thread until it is empty. A failure empties it. */
  async #hashAll(
    pkg: VerifiedPackage,
    queue: PendingFile[],
    onVerified: (verified: StampedDigest) => void,
  ): Promise<void> {
    const hasher = openHasher()
    const hash = ({ file, bytes }: PendingFile) => {
      hasher.update({ file, bytes, complete: true })
      return hasher.digestOf(file)
    }
    try {
      for (let next = queue.pop(); next; next = queue.pop()) onVerified(await this.#verifyFile(pkg, next, hash))
    } finally {
      queue.length = 0
      await hasher.close()
    }
  }

  async #verifyFile(
    pkg: VerifiedPackage,
    pending: PendingFile,
    hash: (pending: PendingFile) => Promise<string>,
  ): Promise<StampedDigest> {
    const { name, file, sha256 } = pending
    const stamp = await stampOf(file)
    if (this.#corrupt.get(file) !== stamp && (await hash(pending)) === sha256) return [stamp, sha256]
    this.#corrupt.set(file, stamp)
    throw new CorruptFile(`${pkg.directory}: ${name} does not have the SHA-256 that its manifest states`, sha256)
  }
}

/** Verified files on disk: their stamps and digests. Other processes add entries as well. */
class VerifiedRecord {
  readonly #directory: string
  readonly #file: string
  readonly #log: VerifierOptions['log']
  #entries: Map<string, string> | undefined
  /** The last write, because concurrent ones would use the same temporary file. */
  #last: Promise<void> = Promise.resolve()

  constructor({ directory, log }: VerifierOptions) {
    this.#directory = directory
    this.#file = path.join(directory, RECORD)
    this.#log = log
  }

  async entries(): Promise<ReadonlyMap<string, string>> {
    this.#entries ??= await this.#read()
    return this.#entries
  }

  add(entries: readonly StampedDigest[]): Promise<void> {
    if (entries.length > 0) this.#last = this.#last.then(() => this.#write(entries))
    return this.#last
  }

  async #write(entries: readonly StampedDigest[]): Promise<void> {
    // Read again to include entries of other processes.
    const merged = new Map([...(await this.#read()), ...(this.#entries ?? [])])
    for (const [stamp, sha256] of entries) {
      merged.delete(stamp)
      merged.set(stamp, sha256)
    }
    this.#entries = new Map([...merged].slice(-REMEMBERED_FILES))
    const scratch = `${this.#file}.${process.pid}`
    try {
      await mkdir(this.#directory, { recursive: true })
      await writeFile(scratch, JSON.stringify(Object.fromEntries(this.#entries)), { mode: 0o600 })
      await rename(scratch, this.#file)
    } catch (error) {
      await rm(scratch, { force: true }).catch(() => {})
      this.#log.warn({ err: error }, 'verified packages cannot be recorded, and will be hashed at each start')
    }
  }

  async #read(): Promise<Map<string, string>> {
    const { size } = await stat(this.#file).catch(() => ({ size: 0 }))
    if (size === 0 || size > RECORD_BYTES) return new Map()
    const json = await readFile(this.#file, 'utf8')
      .then(JSON.parse, () => null)
      .catch(() => null)
    const parsed = record.safeParse(json)
    return new Map(parsed.success ? Object.entries(parsed.data) : [])
  }
}

/** Identifies the content of a file: it changes with the file. */
async function stampOf(file: string): Promise<string> {
  const { ino, size, mtimeNs } = await stat(file, { bigint: true })
  return `${ino} ${size} ${mtimeNs}`
}

// A disk cache of packages from a bucket, within a budget. Blobs and packages are renamed to their final names when they are complete and
// verified, so that an interrupted process leaves neither incomplete.
import { createHash } from 'node:crypto'
import { link, mkdir, mkdtemp, readdir, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import type { Manifest, Package } from '../manifest.ts'
import { CorruptDownload } from './arriving-file.ts'
import { type Bucket, BucketError } from './bucket.ts'
import { Budget } from './budget.ts'
import { type DownloadOptions, download } from './download.ts'
import { blobKey, manifestKey, type PackageName, POINTER_BYTES, pointer, pointerKey } from './layout.ts'
import { isInside, MANIFEST, MANIFEST_BYTES, openPackage, PackageError, parseManifest } from './packages.ts'
import { CorruptFile, type Verifier } from './verification.ts'

export type CacheOptions = {
  directory: string
  /** Maximum size of the cache on disk. */
  budgetBytes: number
  bucket: Bucket
  verifier: Verifier
  log: Pick<Logger, 'info' | 'warn'>
  download?: Omit<DownloadOptions, 'onProgress'>
  /** Receives the progress of the current package. */
  onProgress?: (doneBytes: number, totalBytes: number) => void
}

/** Retries for corrupt downloads. */
const CORRUPT_TRIES = 2

/** The cache of one process; others may use the directory at the same time. */
export class PackageCache {
  readonly #options: CacheOptions
  readonly #packages: string
  readonly #blobs: string
  readonly #budget: Budget

  constructor(options: CacheOptions) {
    const { directory, budgetBytes } = options
    this.#options = options
    this.#packages = path.join(directory, 'packages')
    this.#blobs = path.join(directory, 'blobs')
    this.#budget = new Budget({ directory, blobs: this.#blobs, packages: this.#packages, bytes: budgetBytes })
  }

  /**
   * The package that the bucket serves, from disk or downloaded. If the bucket is unreachable, the most recently used one. Throws
   * PackageError, BucketError, CorruptDownload, or a file-system error.
   */
  async ensure(name: PackageName): Promise<Package> {
    const found = await this.#lookUp(name).catch((error: unknown) => this.#fallBack(name, error))
    const cached = await this.#openCached(found.digest)
    if (cached) return cached
    if (!found.manifest) throw new PackageError(`${describe(name)} is incomplete in ${this.#packages}`)
    const start = performance.now()
    await this.#fetchBlobs(found.manifest)
    await this.#assemble(found.digest, found.bytes, found.manifest)
    const opened = await this.#openCached(found.digest)
    if (!opened) throw new PackageError(`${describe(name)} was downloaded and cannot be opened`)
    const bytes = sum(Object.values(found.manifest.files).map((file) => file.bytes))
    const seconds = (performance.now() - start) / 1000
    this.#options.log.info({ ...name, package: found.digest, bytes, seconds }, 'package fetched')
    return opened
  }

  /** The most recently used package of this name, if the bucket is unreachable. */
  async #fallBack(name: PackageName, error: unknown) {
    if (!(error instanceof BucketError) || error.missing) throw error
    const digest = await this.#budget.newestOf(name)
    if (digest === null) throw error
    const message = 'the bucket cannot be read; the most recently used package is served'
    this.#options.log.warn({ err: error, package: digest }, message)
    return { digest, bytes: null, manifest: null }
  }

  /** The digest and the manifest of the package that the bucket serves now. */
  async #lookUp(name: PackageName): Promise<{ digest: string; bytes: Uint8Array; manifest: Manifest }> {
    const found = pointer.safeParse(parseJson(await this.#options.bucket.read(pointerKey(name), POINTER_BYTES)))
    if (!found.success)
      throw new PackageError(`${pointerKey(name)} in ${this.#options.bucket.url} is not a pointer to a package`)
    const digest = found.data.package
    const bytes = await this.#options.bucket.read(manifestKey(digest), MANIFEST_BYTES)
    const source = `${this.#options.bucket.url}/${manifestKey(digest)}`
    if (createHash('sha256').update(bytes).digest('hex') !== digest)
      throw new PackageError(`${source} does not have the SHA-256 in its name`)
    const manifest = parseManifest(source, bytes)
    const given = { model: manifest.model, tier: manifest.tier, target: manifest.target }
    if (JSON.stringify(given) !== JSON.stringify({ model: name.model, tier: name.tier, target: name.target }))
      throw new PackageError(`${source} is ${describe(given)}, not ${describe(name)}`)
    const outside = Object.keys(manifest.files).find((file) => !isInside(file) || file === MANIFEST)
    if (outside !== undefined) throw new PackageError(`${source}: "${outside}" is not a path inside the package`)
    return { digest, bytes, manifest }
  }

  async #fetchBlobs({ files }: Manifest): Promise<void> {
    const all = new Map(Object.values(files).map((file) => [file.sha256, file.bytes]))
    await mkdir(this.#blobs, { recursive: true })
    await this.#budget.removeStale()
    for (let tries = 1; ; tries++) {
      const missing = await this.#budget.missing(all)
      if (missing.size === 0) return
      await this.#budget.makeRoom(missing, new Set(all.keys()))
      try {
        await this.#fetchMissing(missing, all)
      } catch (error) {
        if (!(error instanceof CorruptDownload) || tries > CORRUPT_TRIES) throw error
        this.#options.log.warn({ err: error }, 'a file of a package is corrupt; it is downloaded again')
      }
    }
  }

  async #fetchMissing(missing: ReadonlyMap<string, number>, all: ReadonlyMap<string, number>): Promise<void> {
    const wanted = [...missing].map(([sha256, bytes]) => ({
      key: blobKey(sha256),
      file: this.#fileOf(sha256),
      bytes,
      sha256,
    }))
    const total = sum(all.values())
    let done = total - sum(missing.values())
    const onProgress = (bytes: number) => {
      done += bytes
      this.#options.onProgress?.(done, total)
    }
    await download(this.#options.bucket, wanted, { ...this.#options.download, onProgress })
    await this.#options.verifier.trust(wanted)
  }

  /** Creates the package's directory of links to blobs under a temporary name and renames it. */
  async #assemble(digest: string, bytes: Uint8Array, { files }: Manifest): Promise<void> {
    await mkdir(this.#packages, { recursive: true })
    const scratch = await mkdtemp(path.join(this.#packages, '.package-'))
    try {
      for (const [name, { sha256 }] of Object.entries(files)) {
        const file = path.join(scratch, name)
        await mkdir(path.dirname(file), { recursive: true })
        await link(this.#fileOf(sha256), file)
      }
      await writeFile(path.join(scratch, MANIFEST), bytes)
      await rename(scratch, path.join(this.#packages, digest)).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error // another process has created it
      })
    } finally {
      await rm(scratch, { recursive: true, force: true })
    }
  }

  /** Opens a cached package; null if it is absent, incomplete or corrupt. */
  async #openCached(digest: string): Promise<Package | null> {
    const at = path.join(this.#packages, digest)
    if (!(await stat(at).catch(() => null))) return null
    try {
      const opened = await openPackage(at)
      if (opened.digest !== digest) throw new PackageError(`${at}: ${MANIFEST} does not have the SHA-256 in its name`)
      await this.#options.verifier.verify(opened)
      await utimes(at, new Date(), new Date())
      this.#budget.keep(digest)
      return opened
    } catch (error) {
      if (!(error instanceof PackageError)) throw error
      this.#options.log.warn({ err: error }, 'a cached package is corrupt; it is downloaded again')
      await rm(at, { recursive: true, force: true })
      if (error instanceof CorruptFile) await rm(this.#fileOf(error.sha256), { force: true })
      return null
    }
  }

  #fileOf(sha256: string): string {
    return path.join(this.#blobs, sha256)
  }
}

/** Size of a cache on disk. */
export async function usedBy(directory: string): Promise<number> {
  const blobs = path.join(directory, 'blobs')
  const names = await readdir(blobs).catch(() => [])
  return sum(
    await Promise.all(
      names.map((name) =>
        stat(path.join(blobs, name)).then(
          ({ size }) => size,
          () => 0,
        ),
      ),
    ),
  )
}

const describe = ({ model, tier, target }: PackageName) => `${model}:${tier} for ${target}`
const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0)

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch {
    return undefined
  }
}

// A disk cache of packages from a bucket, within a budget. Blobs and packages get their final names only once complete and
// verified, so that an interrupted process leaves no incomplete ones under these names.
import { link, mkdir, mkdtemp, readdir, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import type { Manifest, Package } from '../manifest.ts'
import { CacheBudget, CacheFull } from './budget.ts'
import { CorruptDownload, type PackageFile } from './download/arriving-file.ts'
import { type ArrivingPackage, createArrivingPackage } from './download/arriving-package.ts'
import { type Bucket, BucketError } from './download/bucket.ts'
import { type DownloadOptions, download } from './download/download.ts'
import { blobKeyOf, type PackageName } from './layout.ts'
import { listFilesInLoadOrder } from './load-order.ts'
import { MANIFEST, openPackage, PackageError } from './packages.ts'
import { removeDirectory } from './removal.ts'
import { describeName, findServed, type ServedPackage } from './served-package.ts'
import { CorruptFile, type Verifier } from './verification.ts'

type CacheOptions = {
  directory: string
  /** Maximum size of the cache on disk. */
  budgetBytes: number
  bucket: Bucket
  verifier: Verifier
  log: Pick<Logger, 'info' | 'warn'>
  download?: Omit<DownloadOptions, 'onProgress' | 'onFile'>
  /** Receives the progress of the current package. */
  onProgress?: (doneBytes: number, totalBytes: number) => void
}

/**
 * A package, possibly during its download. `complete` resolves when all files are on disk and verified, or rejects with the download's error.
 */
export type FetchedPackage = { package: Package; complete: Promise<unknown> }

/** Retries for corrupt downloads. */
const CORRUPT_TRIES = 2

/** The cache of one process; other processes may use the directory at the same time. */
export class PackageCache {
  readonly #options: CacheOptions
  readonly #packages: string
  readonly #blobs: string
  readonly #budget: CacheBudget

  constructor(options: CacheOptions) {
    const { directory, budgetBytes } = options
    this.#options = options
    this.#packages = path.join(directory, 'packages')
    this.#blobs = path.join(directory, 'blobs')
    const places = { directory, blobs: this.#blobs, packages: this.#packages }
    this.#budget = new CacheBudget({ ...places, bytes: budgetBytes })
  }

  /**
   * The package that the bucket serves, from disk or downloaded. If the bucket is unreachable, the most recently used one. Throws
   * PackageError, BucketError, CorruptDownload, CacheFull, or a file-system error.
   */
  async ensure(name: PackageName): Promise<Package> {
    const { cached, served } = await this.#find(name)
    if (cached) return cached
    return this.#fetch(name, served)
  }

  /**
   * The same package, without waiting for its download, which begins when `after` resolves. Each file appears in its directory once it is
   * verified (arrival.ts). Errors of the download reject `complete`.
   */
  async begin(name: PackageName, after: Promise<unknown> = Promise.resolve()): Promise<FetchedPackage> {
    const { cached, served } = await this.#find(name)
    if (cached) return { package: cached, complete: Promise.resolve() }
    const arriving = await createArrivingPackage(served, this.#packages).catch((error) => {
      throw this.#explain(error, bytesOf(served.manifest))
    })
    const complete = after
      .then(() => this.#fetch(name, served, arriving))
      .then(({ directory }) => arriving.complete(directory))
      .catch(async (error: unknown) => {
        await arriving.discard().catch(() => {})
        throw error
      })
    // Prevents an unhandled rejection before the caller awaits it.
    complete.catch(() => {})
    return { package: arriving.package, complete }
  }

  /** The package that the bucket serves, and its copy on disk, if any. */
  async #find(name: PackageName): Promise<{ cached: Package; served: null } | { cached: null; served: ServedPackage }> {
    const served = await findServed(this.#options.bucket, name).catch((error: unknown) =>
      this.#findLastUsed(name, error),
    )
    const cached = await this.#openCached(served.digest)
    if (cached) return { cached, served: null }
    if (!served.manifest) throw new PackageError(`${describeName(name)} is incomplete in ${this.#packages}`)
    return { cached, served }
  }

  /** The most recently used package, if the bucket is unreachable. Throws `error` otherwise. */
  async #findLastUsed(name: PackageName, error: unknown): Promise<{ digest: string; manifest: null }> {
    if (!(error instanceof BucketError) || error.missing) throw error
    const digest = await this.#budget.newestOf(name)
    if (digest === null) throw error
    const { log } = this.#options
    log.warn({ err: error, package: digest }, 'the bucket cannot be read; the most recently used package is served')
    return { digest, manifest: null }
  }

  async #fetch(name: PackageName, served: ServedPackage, arriving?: ArrivingPackage): Promise<Package> {
    const start = performance.now()
    const bytes = bytesOf(served.manifest)
    await this.#fetchBlobs(served.manifest, arriving)
      .then(() => this.#assemble(served))
      .catch((error) => {
        throw this.#explain(error, bytes)
      })
    const opened = await this.#openCached(served.digest)
    if (!opened) throw new PackageError(`${describeName(name)} was downloaded and cannot be opened`)
    const seconds = (performance.now() - start) / 1000
    this.#options.log.info({ ...name, package: served.digest, bytes, seconds }, 'package fetched')
    return opened
  }

  async #fetchBlobs(manifest: Manifest, arriving?: ArrivingPackage): Promise<void> {
    const all = new Map(listFilesInLoadOrder(manifest).map(([, { sha256, bytes }]) => [sha256, bytes]))
    await mkdir(this.#blobs, { recursive: true })
    await this.#budget.removeStale()
    for (let tries = 1; ; tries++) {
      const absent = await this.#budget.missing(all)
      const usable = new Set<string>()
      for (const [sha256, bytes] of all)
        if (!absent.has(sha256) && (await this.#reuse(sha256, bytes, arriving))) usable.add(sha256)
      const missing = new Map([...all].filter(([sha256]) => !usable.has(sha256)))
      if (missing.size === 0) return
      await this.#budget.makeRoom(missing, new Set(all.keys()))
      try {
        await this.#fetchMissing(missing, all, arriving)
      } catch (error) {
        if (!(error instanceof CorruptDownload) || tries > CORRUPT_TRIES) throw error
        this.#options.log.warn({ err: error }, 'a file of a package is corrupt; it is downloaded again')
      }
    }
  }

  /** Verifies a blob on disk, and adds its files to the package. False if it is corrupt, after its removal, or absent. */
  async #reuse(sha256: string, bytes: number, arriving?: ArrivingPackage): Promise<boolean> {
    const { verifier, log } = this.#options
    const file = this.#fileOf(sha256)
    try {
      await verifier.verify({ directory: this.#blobs, manifest: { files: { [sha256]: { bytes, sha256 } } } })
      await arriving?.add(sha256, file)
      return true
    } catch (error) {
      // Another process may remove it at any time before it is part of a package.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
      if (!(error instanceof CorruptFile)) throw error
      log.warn({ err: error }, 'a cached file is corrupt; it is downloaded again')
      await rm(file, { force: true })
      return false
    }
  }

  async #fetchMissing(
    missing: ReadonlyMap<string, number>,
    all: ReadonlyMap<string, number>,
    arriving?: ArrivingPackage,
  ): Promise<void> {
    const { bucket, verifier, onProgress } = this.#options
    const wanted = [...missing].map(([sha256, bytes]) => ({
      ...{ key: blobKeyOf(sha256), file: this.#fileOf(sha256), bytes, sha256 },
    }))
    const total = sum(all.values())
    let done = total - sum(missing.values())
    const report = (bytes: number) => {
      done += bytes
      onProgress?.(done, total)
    }
    const onFile = async (file: PackageFile) => {
      await verifier.trust([file])
      await arriving?.add(file.sha256, file.file)
    }
    await download(bucket, wanted, { ...this.#options.download, onProgress: report, onFile })
  }

  /** For a full disk, an error with a remedy; otherwise the error unchanged. */
  #explain(error: NodeJS.ErrnoException, bytes: number): Error {
    if (error.code !== 'ENOSPC' && error.code !== 'EDQUOT') return error
    const { directory } = this.#options
    const problem = `the disk is full; the package takes ${(bytes / 1e9).toFixed(3)} GB. Free space on it, or set OCTET_CACHE to another disk`
    return new CacheFull(`${directory}: ${problem}`, { cause: error })
  }

  /** Creates the package's directory of links to blobs under a temporary name and renames it. */
  async #assemble({ digest, bytes, manifest: { files } }: ServedPackage): Promise<void> {
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
    const { verifier, log } = this.#options
    const at = path.join(this.#packages, digest)
    if (!(await stat(at).catch(() => null))) return null
    try {
      const opened = await openPackage(at)
      if (opened.digest !== digest) throw new PackageError(`${at}: ${MANIFEST} does not match the SHA-256 in its name`)
      await verifier.verify(opened)
      await utimes(at, new Date(), new Date())
      this.#budget.keep(digest)
      return opened
    } catch (error) {
      if (!(error instanceof PackageError)) throw error
      log.warn({ err: error }, 'a cached package is corrupt; it is downloaded again')
      await removeDirectory(at)
      if (error instanceof CorruptFile) await rm(this.#fileOf(error.sha256), { force: true })
      return null
    }
  }

  #fileOf(sha256: string): string {
    return path.join(this.#blobs, sha256)
  }
}

/** Size of a cache on disk. */
export async function cacheBytes(directory: string): Promise<number> {
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

const bytesOf = ({ files }: Manifest) => sum(Object.values(files).map(({ bytes }) => bytes))
const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0)

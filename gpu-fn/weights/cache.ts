// Packages from a bucket on this machine's disk, within a budget. A blob gets its name when it is whole and has its SHA-256, a package its
// own when it has every file; whatever is killed half-way leaves nothing that could be taken for either.
import { createHash } from 'node:crypto'
import { link, mkdir, mkdtemp, readdir, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import type { Manifest, Package } from '../manifest.ts'
import { CorruptDownload } from './arriving-file.ts'
import { type Bucket, BucketError } from './bucket.ts'
import { createBudget } from './budget.ts'
import { type DownloadOptions, download } from './download.ts'
import { blobKey, manifestKey, type PackageName, POINTER_BYTES, pointer, pointerKey } from './layout.ts'
import { isInside, MANIFEST, MANIFEST_BYTES, openPackage, PackageError, parseManifest } from './packages.ts'
import { CorruptFile, type Verifier } from './verification.ts'

export type CacheOptions = {
  directory: string
  /** The most that the cache may take of the disk. */
  budgetBytes: number
  bucket: Bucket
  verifier: Verifier
  log: Pick<Logger, 'info' | 'warn'>
  download?: Omit<DownloadOptions, 'onProgress'>
  /** Told how much of the package being fetched is there. */
  onProgress?: (doneBytes: number, totalBytes: number) => void
}

/** How often a file that came damaged is fetched again. */
const CORRUPT_TRIES = 2

/** The cache of one process; others may use the directory at the same time. */
export function createPackageCache(options: CacheOptions) {
  const { directory, bucket, verifier, log } = options
  const packages = path.join(directory, 'packages')
  const blobs = path.join(directory, 'blobs')
  const budget = createBudget({ directory, blobs, packages, bytes: options.budgetBytes })
  const fileOf = (sha256: string) => path.join(blobs, sha256)

  /** The package's digest and manifest as the bucket has them now. */
  async function lookUp(name: PackageName): Promise<{ digest: string; bytes: Uint8Array; manifest: Manifest }> {
    const found = pointer.safeParse(parseJson(await bucket.read(pointerKey(name), POINTER_BYTES)))
    if (!found.success) throw new PackageError(`${pointerKey(name)} in ${bucket.url} is not a pointer to a package`)
    const digest = found.data.package
    const bytes = await bucket.read(manifestKey(digest), MANIFEST_BYTES)
    const source = `${bucket.url}/${manifestKey(digest)}`
    if (createHash('sha256').update(bytes).digest('hex') !== digest)
      throw new PackageError(`${source} does not have the SHA-256 that it is named by`)
    const manifest = parseManifest(source, bytes)
    const given = { model: manifest.model, tier: manifest.tier, target: manifest.target }
    if (JSON.stringify(given) !== JSON.stringify({ model: name.model, tier: name.tier, target: name.target }))
      throw new PackageError(`${source} is ${describe(given)}, not ${describe(name)}`)
    const outside = Object.keys(manifest.files).find((file) => !isInside(file) || file === MANIFEST)
    if (outside !== undefined) throw new PackageError(`${source}: "${outside}" is no path inside the package`)
    return { digest, bytes, manifest }
  }

  async function fetchBlobs({ files }: Manifest): Promise<void> {
    const all = new Map(Object.values(files).map((file) => [file.sha256, file.bytes]))
    await mkdir(blobs, { recursive: true })
    await budget.forgetStale()
    for (let tries = 1; ; tries++) {
      const missing = await budget.missing(all)
      if (missing.size === 0) return
      await budget.makeRoom(missing, new Set(all.keys()))
      try {
        await fetchMissing(missing, all)
      } catch (error) {
        if (!(error instanceof CorruptDownload) || tries > CORRUPT_TRIES) throw error
        log.warn({ err: error }, 'a file of a package came damaged; it is fetched again')
      }
    }
  }

  async function fetchMissing(missing: ReadonlyMap<string, number>, all: ReadonlyMap<string, number>): Promise<void> {
    const wanted = [...missing].map(([sha256, bytes]) => ({
      key: blobKey(sha256),
      file: fileOf(sha256),
      bytes,
      sha256,
    }))
    const total = sum(all.values())
    let done = total - sum(missing.values())
    const onProgress = (bytes: number) => {
      done += bytes
      options.onProgress?.(done, total)
    }
    await download(bucket, wanted, { ...options.download, onProgress })
    await verifier.trust(wanted)
  }

  /** Makes the package's directory of links to blobs; the rename is what makes it one. */
  async function assemble(digest: string, bytes: Uint8Array, { files }: Manifest): Promise<void> {
    await mkdir(packages, { recursive: true })
    const scratch = await mkdtemp(path.join(packages, '.package-'))
    try {
      for (const [name, { sha256 }] of Object.entries(files)) {
        const file = path.join(scratch, name)
        await mkdir(path.dirname(file), { recursive: true })
        await link(fileOf(sha256), file)
      }
      await writeFile(path.join(scratch, MANIFEST), bytes)
      await rename(scratch, path.join(packages, digest)).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error // another process was first
      })
    } finally {
      await rm(scratch, { recursive: true, force: true })
    }
  }

  /** Opens a cached package; null if it is absent, incomplete or corrupt. */
  async function openCached(digest: string): Promise<Package | null> {
    const at = path.join(packages, digest)
    if (!(await stat(at).catch(() => null))) return null
    try {
      const opened = await openPackage(at)
      if (opened.digest !== digest) throw new PackageError(`${at}: ${MANIFEST} does not have the SHA-256 in its name`)
      await verifier.verify(opened)
      await utimes(at, new Date(), new Date())
      budget.keep(digest)
      return opened
    } catch (error) {
      if (!(error instanceof PackageError)) throw error
      log.warn({ err: error }, 'a package of the cache is damaged; it is fetched again')
      await rm(at, { recursive: true, force: true })
      if (error instanceof CorruptFile) await rm(fileOf(error.sha256), { force: true })
      return null
    }
  }

  return {
    /**
     * The package that the bucket says is served, from the disk or fetched now. Where the bucket cannot be reached, the one used last.
     * Throws PackageError, BucketError, CorruptDownload, or what the disk says.
     */
    async ensure(name: PackageName): Promise<Package> {
      const found = await lookUp(name).catch(async (error: unknown) => {
        if (!(error instanceof BucketError) || error.missing) throw error
        const last = await budget.newestOf(name)
        if (last === null) throw error
        log.warn({ err: error, package: last }, 'the bucket cannot be read; the package used last is served')
        return { digest: last, bytes: null, manifest: null }
      })
      const cached = await openCached(found.digest)
      if (cached) return cached
      if (!found.manifest) throw new PackageError(`${describe(name)} is not whole in ${packages}`)
      const start = performance.now()
      await fetchBlobs(found.manifest)
      await assemble(found.digest, found.bytes, found.manifest)
      const opened = await openCached(found.digest)
      if (!opened) throw new PackageError(`${describe(name)} was fetched and cannot be opened`)
      const bytes = sum(Object.values(found.manifest.files).map((file) => file.bytes))
      const seconds = (performance.now() - start) / 1000
      log.info({ ...name, package: found.digest, bytes, seconds }, 'package fetched')
      return opened
    },
  }
}

/** Bytes on the disk of a cache. */
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

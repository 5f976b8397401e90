// The disk budget of the package cache: its contents, and their eviction.
import { readdir, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isKept } from './download/arriving-package.ts'
import type { PackageName } from './layout.ts'
import { parseManifest, readManifest } from './packages.ts'
import { isRemoved, removeDirectory } from './removal.ts'

/** The packages exceed the budget of the cache; the message has the numbers. */
export class CacheFull extends Error {
  override name = 'CacheFull' as const
}

/** A temporary file unchanged for this long belongs to a process that has ended. */
export const STALE_MS = 30_000
const POLL_MS = 2_000
const SHA256 = /^[0-9a-f]{64}$/

type Options = { directory: string; blobs: string; packages: string; bytes: number }
type Entry = { file: string; name: string; bytes: number; links: number; modified: number }

const isPartial = ({ name }: Entry) => name.startsWith('.')
/** A time in the future is from before a correction of the clock, because a write sets the present time. */
const isStale = ({ name, modified }: Entry) => isRemoved(name) || Math.abs(Date.now() - modified) > STALE_MS
const sumOf = (values: Iterable<number>) => [...values].reduce((sum, value) => sum + value, 0)

export class CacheBudget {
  readonly #options: Options
  /** Digests of packages that this process has open. */
  readonly #inUse = new Set<string>()

  constructor(options: Options) {
    this.#options = options
  }

  /** Protects a package from eviction. */
  keep(digest: string): void {
    this.#inUse.add(digest)
  }

  /** Removes temporary files of processes that have ended. Returns their number. */
  async removeStale(): Promise<number> {
    const stale = (await this.#partials()).filter(isStale)
    for (const { file } of stale) await rm(file, { recursive: true, force: true })
    return stale.length
  }

  /** The blobs (SHA-256 → bytes) that are not on disk. */
  async missing(all: ReadonlyMap<string, number>): Promise<Map<string, number>> {
    const present = new Map((await listEntries(this.#options.blobs)).map(({ name, bytes }) => [name, bytes]))
    return new Map([...all].filter(([sha256, bytes]) => present.get(sha256) !== bytes))
  }

  /** Evicts the least recently used packages until the missing blobs fit. Throws CacheFull. */
  async makeRoom(missing: ReadonlyMap<string, number>, wanted: ReadonlySet<string>): Promise<void> {
    const needed = sumOf(missing.values())
    if (await this.#fits(needed)) return
    await this.#removeOrphans(wanted)
    for (const entry of await this.#packagesByAge()) {
      if (this.#inUse.has(entry.name) || isPartial(entry)) continue
      if (await this.#fits(needed)) return
      await removeDirectory(entry.file)
      await this.#removeOrphans(wanted)
    }
    await this.#waitForOthers(needed, wanted)
  }

  /** The digest of the most recently used package of this name. */
  async newestOf({ model, tier, target }: PackageName): Promise<string | null> {
    for (const entry of (await this.#packagesByAge()).filter(({ name }) => SHA256.test(name)).reverse()) {
      const manifest = await readManifest(entry.file)
        .then((bytes) => parseManifest(entry.file, bytes))
        .catch(() => null)
      if (manifest?.model === model && manifest.tier === tier && manifest.target === target) return entry.name
    }
    return null
  }

  /** Waits while downloads of other processes occupy the budget; those of killed processes become stale. Throws CacheFull. */
  async #waitForOthers(needed: number, wanted: ReadonlySet<string>): Promise<void> {
    const { directory, bytes } = this.#options
    while (!(await this.#fits(needed))) {
      // Without other temporary files there is no download whose end could free space, so that the wait would be endless: two processes
      // would wait for each other, and one for itself.
      if ((await this.#partials()).every(isKept))
        throw new CacheFull(
          `${directory} may take ${bytes} bytes, ${await this.#sumBytes()} are in use, and ${needed} more are needed: raise OCTET_CACHE_BYTES or serve fewer models`,
        )
      await sleep(POLL_MS)
      if ((await this.removeStale()) > 0) await this.#removeOrphans(wanted)
    }
  }

  /** Temporary files and directories, including those of other processes. */
  async #partials(): Promise<Entry[]> {
    const { blobs, packages } = this.#options
    return [...(await listEntries(blobs)), ...(await listEntries(packages))].filter(isPartial)
  }

  async #fits(bytes: number): Promise<boolean> {
    return (await this.#sumBytes()) + bytes <= this.#options.bytes
  }

  async #sumBytes(): Promise<number> {
    return sumOf((await listEntries(this.#options.blobs)).map(({ bytes }) => bytes))
  }

  /** Package directories, least recently used first. */
  async #packagesByAge(): Promise<Entry[]> {
    return (await listEntries(this.#options.packages)).toSorted((a, b) => a.modified - b.modified)
  }

  /** Removes blobs without a package, except `wanted`. */
  async #removeOrphans(wanted: ReadonlySet<string>): Promise<void> {
    for (const { file, name, links } of await listEntries(this.#options.blobs))
      if (SHA256.test(name) && links === 1 && !wanted.has(name)) await rm(file, { force: true })
  }
}

/** The entries of a directory, without those removed in the meantime. */
async function listEntries(directory: string): Promise<Entry[]> {
  const names = await readdir(directory).catch(() => [])
  const found = names.map(async (name): Promise<Entry[]> => {
    const file = path.join(directory, name)
    const stats = await stat(file).catch(() => null)
    return stats ? [{ file, name, bytes: stats.size, links: stats.nlink, modified: stats.mtimeMs }] : []
  })
  return (await Promise.all(found)).flat()
}

// The disk budget of the package cache: its contents, and their eviction.
import { readdir, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { PackageName } from './layout.ts'
import { parseManifest, readManifest } from './packages.ts'

/** The packages exceed the budget of the cache; the message has the numbers. */
export class CacheFull extends Error {
  override name = 'CacheFull' as const
}

/** A temporary file without writes for this long belongs to a process that has ended. */
const STALE_MS = 30_000
const POLL_MS = 2_000
const SHA256 = /^[0-9a-f]{64}$/

type Options = { directory: string; blobs: string; packages: string; bytes: number }
type Entry = { file: string; name: string; bytes: number; links: number; modified: number }

const isPartial = ({ name }: Entry) => name.startsWith('.')
const isStale = ({ modified }: Entry) => Date.now() - modified > STALE_MS

export class Budget {
  readonly #options: Options
  /** Packages that this process has open. */
  readonly #inUse = new Set<string>()

  constructor(options: Options) {
    this.#options = options
  }

  /** Prevents the eviction of a package. */
  keep(digest: string): void {
    this.#inUse.add(digest)
  }

  /** Removes temporary files of processes that have ended. */
  async removeStale(): Promise<void> {
    const { blobs, packages } = this.#options
    const partial = [...(await entries(blobs)), ...(await entries(packages))].filter(isPartial)
    for (const { file } of partial.filter(isStale)) await rm(file, { recursive: true, force: true })
  }

  /** The blobs (SHA-256 → bytes) that are not on disk. */
  async missing(all: ReadonlyMap<string, number>): Promise<Map<string, number>> {
    const present = new Map((await entries(this.#options.blobs)).map(({ name, bytes }) => [name, bytes]))
    return new Map([...all].filter(([sha256, bytes]) => present.get(sha256) !== bytes))
  }

  /** Evicts the least recently used packages until the missing blobs fit. Throws CacheFull. */
  async makeRoom(missing: ReadonlyMap<string, number>, wanted: ReadonlySet<string>): Promise<void> {
    const needed = [...missing.values()].reduce((sum, bytes) => sum + bytes, 0)
    if (await this.#fits(needed)) return
    await this.#removeOrphans(wanted)
    const evictable = (await this.#packagesByAge()).filter((entry) => !this.#inUse.has(entry.name) && !isPartial(entry))
    for (const { file } of evictable) {
      if (await this.#fits(needed)) return
      await rm(file, { recursive: true, force: true })
      await this.#removeOrphans(wanted)
    }
    await this.#awaitOthers(needed)
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

  /** Waits while downloads of other processes use the budget; those of killed processes become stale. Throws CacheFull if there are none. */
  async #awaitOthers(needed: number): Promise<void> {
    const { directory, blobs, bytes: limit } = this.#options
    while (!(await this.#fits(needed))) {
      const active = (await entries(blobs)).filter(isPartial)
      if (active.length === 0) {
        const used = await this.#used()
        throw new CacheFull(
          `${directory} may take ${limit} bytes, ${used} are in use, and ${needed} more are needed: raise OCTET_CACHE_BYTES or serve fewer models`,
        )
      }
      await sleep(POLL_MS)
      await this.removeStale()
    }
  }

  async #fits(needed: number): Promise<boolean> {
    return (await this.#used()) + needed <= this.#options.bytes
  }

  async #used(): Promise<number> {
    return (await entries(this.#options.blobs)).reduce((sum, { bytes }) => sum + bytes, 0)
  }

  /** Package directories, least recently used first. */
  async #packagesByAge(): Promise<Entry[]> {
    return (await entries(this.#options.packages)).toSorted((a, b) => a.modified - b.modified)
  }

  /** Removes blobs without a package, except `wanted`. */
  async #removeOrphans(wanted: ReadonlySet<string>): Promise<void> {
    for (const { file, name, links } of await entries(this.#options.blobs))
      if (SHA256.test(name) && links === 1 && !wanted.has(name)) await rm(file, { force: true })
  }
}

/** The entries of a directory, without those removed in the meantime. */
async function entries(directory: string): Promise<Entry[]> {
  const names = await readdir(directory).catch(() => [])
  const found = names.map(async (name): Promise<Entry[]> => {
    const file = path.join(directory, name)
    const stats = await stat(file).catch(() => null)
    return stats ? [{ file, name, bytes: stats.size, links: stats.nlink, modified: stats.mtimeMs }] : []
  })
  return (await Promise.all(found)).flat()
}

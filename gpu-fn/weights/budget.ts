// The disk budget of the package cache: what is there, and what goes when more is to come.
import { readdir, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { PackageName } from './layout.ts'
import { parseManifest, readManifest } from './packages.ts'

/** The cache cannot hold what is asked of it; the message has the numbers. */
export class CacheFull extends Error {
  override name = 'CacheFull' as const
}

/** A file half written that nobody has written to for this long belongs to a process that is gone. */
const STALE_MS = 30_000
const LOOK_AGAIN_MS = 2_000
const SHA256 = /^[0-9a-f]{64}$/

type Options = { directory: string; blobs: string; packages: string; bytes: number }
type Entry = { file: string; name: string; bytes: number; links: number; modified: number }

export function createBudget({ directory, blobs, packages, bytes: limit }: Options) {
  /** Packages that this process has open. */
  const kept = new Set<string>()

  /** Package directories, least recently used first. */
  async function packagesByAge(): Promise<Entry[]> {
    return (await entries(packages)).toSorted((a, b) => a.modified - b.modified)
  }

  const isPart = ({ name }: Entry) => name.startsWith('.')
  const isStale = ({ modified }: Entry) => Date.now() - modified > STALE_MS

  async function forgetStale(): Promise<void> {
    const left = [...(await entries(blobs)), ...(await entries(packages))].filter(isPart)
    for (const { file } of left.filter(isStale)) await rm(file, { recursive: true, force: true })
  }

  /** Removes blobs that no package has and that are not among `wanted`. */
  async function forgetOrphans(wanted: ReadonlySet<string>): Promise<void> {
    for (const { file, name, links } of await entries(blobs))
      if (SHA256.test(name) && links === 1 && !wanted.has(name)) await rm(file, { force: true })
  }

  async function used(): Promise<number> {
    return (await entries(blobs)).reduce((sum, { bytes }) => sum + bytes, 0)
  }

  return {
    forgetStale,
    keep: (digest: string) => void kept.add(digest),
    /** Those of the blobs, SHA-256 → bytes, that are not on the disk. */
    async missing(all: ReadonlyMap<string, number>): Promise<Map<string, number>> {
      const present = new Map((await entries(blobs)).map(({ name, bytes }) => [name, bytes]))
      return new Map([...all].filter(([sha256, bytes]) => present.get(sha256) !== bytes))
    },
    /** Lets go of what was not used for longest until the missing blobs fit. Throws CacheFull. */
    async makeRoom(missing: ReadonlyMap<string, number>, wanted: ReadonlySet<string>): Promise<void> {
      const needed = [...missing.values()].reduce((sum, bytes) => sum + bytes, 0)
      const fits = async () => (await used()) + needed <= limit
      if (await fits()) return
      await forgetOrphans(wanted)
      for (const { file } of (await packagesByAge()).filter((entry) => !kept.has(entry.name) && !isPart(entry))) {
        if (await fits()) return
        await rm(file, { recursive: true, force: true })
        await forgetOrphans(wanted)
      }
      // What another process downloads counts as well; one that was killed shows itself by no longer writing.
      while (!(await fits())) {
        const young = (await entries(blobs)).filter(isPart)
        if (young.length === 0)
          throw new CacheFull(
            `${directory} may take ${limit} bytes, ${await used()} are in use, and ${needed} more are needed: raise OCTET_CACHE_BYTES or serve fewer models`,
          )
        await sleep(LOOK_AGAIN_MS)
        await forgetStale()
      }
    },
    /** The digest of the package of this name that was used last. */
    async newestOf({ model, tier, target }: PackageName): Promise<string | null> {
      for (const entry of (await packagesByAge()).filter(({ name }) => SHA256.test(name)).reverse()) {
        const manifest = await readManifest(entry.file)
          .then((bytes) => parseManifest(entry.file, bytes))
          .catch(() => null)
        if (manifest?.model === model && manifest.tier === tier && manifest.target === target) return entry.name
      }
      return null
    },
  }
}

/** What a directory has; what vanishes meanwhile is left out. */
async function entries(directory: string): Promise<Entry[]> {
  const names = await readdir(directory).catch(() => [])
  const found = names.map(async (name): Promise<Entry[]> => {
    const file = path.join(directory, name)
    const stats = await stat(file).catch(() => null)
    return stats ? [{ file, name, bytes: stats.size, links: stats.nlink, modified: stats.mtimeMs }] : []
  })
  return (await Promise.all(found)).flat()
}

// A package during its download: each file appears in its directory once it is verified.
import { randomBytes } from 'node:crypto'
import { link, mkdir, mkdtemp, readdir, rename, rm, stat, symlink, utimes } from 'node:fs/promises'
import path from 'node:path'
import type { Package } from '../../manifest.ts'
import type { ServedPackage } from '../served-package.ts'
import { createArrival, endArrival, hasArrived, setArrived } from './arrival.ts'

/** Interval between updates of the modification time; shorter than the minimum age of abandoned directories (budget.ts). */
const TOUCH_MS = 5_000

export type ArrivingPackage = Awaited<ReturnType<typeof createArrivingPackage>>

/** The directory of links to packages, next to the directory of complete packages. */
const LINKS = 'links'
const PREFIX = '.arriving-'

/** Whether this directory belongs to an active download, whose process keeps the modification time current. */
export const isKept = ({ name, modified }: { name: string; modified: number }): boolean =>
  name.startsWith(PREFIX) && Math.abs(Date.now() - modified) < 2 * TOUCH_MS

/**
 * Creates a package without files. `packages`: the directory of complete packages. The package's path is a link and stays valid: its target
 * is a temporary directory during the download, and the complete package afterward.
 */
export async function createArrivingPackage({ digest, manifest }: ServedPackage, packages: string) {
  const links = path.resolve(packages, '..', LINKS)
  for (const folder of [packages, links]) await mkdir(folder, { recursive: true })
  await removeBroken(links)
  const files = await mkdtemp(path.join(path.resolve(packages), PREFIX))
  const directory = path.join(links, randomBytes(8).toString('hex'))
  const next = `${directory}.next`
  await symlink(files, directory)
  const arrival = createArrival(manifest)
  // NFS keeps open files in their directory, which is then removed later as an abandoned one (budget.ts).
  const removeFiles = () => rm(files, { recursive: true, force: true }).catch(() => {})
  const timer = setInterval(() => void utimes(files, new Date(), new Date()).catch(() => {}), TOUCH_MS).unref()
  return {
    package: { directory, manifest, digest, arrival } satisfies Package,
    /** Adds the missing files with this content. `blob`: a verified file with the content. */
    async add(sha256: string, blob: string): Promise<void> {
      for (const [file, [name, expected]] of Object.entries(manifest.files).entries()) {
        if (expected.sha256 !== sha256 || hasArrived(arrival, file)) continue
        const at = path.join(files, name)
        await mkdir(path.dirname(at), { recursive: true })
        await link(blob, at).catch(ignoreExisting)
        setArrived(arrival, file)
      }
    },
    /** Replaces the temporary directory with that of the complete package. */
    async complete(place: string): Promise<void> {
      clearInterval(timer)
      await symlink(path.resolve(place), next)
      await rename(next, directory)
      await removeFiles()
    },
    /** Removes the files. Pending waits for files fail. */
    async discard(): Promise<void> {
      clearInterval(timer)
      endArrival(arrival)
      await removeFiles()
      for (const at of [directory, next]) await rm(at, { force: true })
    },
  }
}

/** A retried download may add a file whose earlier link was still in progress. */
function ignoreExisting(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EEXIST') throw error
}

/** Removes links to packages that no longer exist. */
async function removeBroken(links: string): Promise<void> {
  for (const name of await readdir(links)) {
    const at = path.join(links, name)
    if (!(await stat(at).catch(() => null))) await rm(at, { force: true })
  }
}

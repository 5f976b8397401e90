// A package that is downloaded: its files appear in its directory as soon as each is verified.
import { randomBytes } from 'node:crypto'
import { link, mkdir, mkdtemp, readdir, rename, rm, stat, symlink, utimes } from 'node:fs/promises'
import path from 'node:path'
import type { Package } from '../manifest.ts'
import { createArrival, endArrival, hasArrived, setArrived } from './arrival.ts'
import type { ServedPackage } from './served-package.ts'

/** Must be shorter than the time after which other processes take a directory for the remains of a killed one (budget.ts). */
const TOUCH_MS = 5_000

export type ArrivingPackage = Awaited<ReturnType<typeof createArrivingPackage>>

/** The directory of the paths of packages that were downloaded by their process, beside that of complete packages. */
const LINKS = 'links'

/**
 * Creates a package without files. `packages`: the directory of complete packages. Its path stays valid when the package is complete: it is a
 * link to a temporary directory, and then to the complete package.
 */
export async function createArrivingPackage({ digest, manifest }: ServedPackage, packages: string) {
  const links = path.resolve(packages, '..', LINKS)
  for (const folder of [packages, links]) await mkdir(folder, { recursive: true })
  await removeBroken(links)
  const files = await mkdtemp(path.join(path.resolve(packages), '.arriving-'))
  const directory = path.join(links, randomBytes(8).toString('hex'))
  await symlink(files, directory)
  const arrival = createArrival(manifest)
  let touched = Date.now()
  return {
    package: { directory, manifest, digest, arrival } satisfies Package,
    /** Adds the files that have this content, unless they are there. `blob`: the path of the content. */
    async add(sha256: string, blob: string): Promise<void> {
      for (const [file, [name, expected]] of Object.entries(manifest.files).entries()) {
        if (expected.sha256 !== sha256 || hasArrived(arrival, file)) continue
        const at = path.join(files, name)
        await mkdir(path.dirname(at), { recursive: true })
        await link(blob, at)
        setArrived(arrival, file)
      }
    },
    /** To be called regularly during the download. */
    touch(): void {
      if (Date.now() - touched < TOUCH_MS) return
      touched = Date.now()
      utimes(files, new Date(), new Date()).catch(() => {})
    },
    /** Replaces the temporary directory by that of the complete package. */
    async complete(place: string): Promise<void> {
      const next = `${directory}.next`
      await symlink(path.resolve(place), next)
      await rename(next, directory)
      await rm(files, { recursive: true, force: true })
    },
    /** Removes the files, and ends all waits for further ones. */
    async discard(): Promise<void> {
      endArrival(arrival)
      await rm(files, { recursive: true, force: true })
      await rm(directory, { force: true })
    },
  }
}

/** Removes links to packages that no longer exist. */
async function removeBroken(links: string): Promise<void> {
  for (const name of await readdir(links)) {
    const at = path.join(links, name)
    if (!(await stat(at).catch(() => null))) await rm(at, { force: true })
  }
}

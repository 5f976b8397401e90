// Where the packages of this process come from: a mounted directory first, a bucket for what is not there.
import { mkdir, statfs } from 'node:fs/promises'
import type { Logger } from 'pino'
import type { Config } from '../config.ts'
import type { Package } from '../manifest.ts'
import { openBucket } from './bucket.ts'
import { createPackageCache, usedBy } from './cache.ts'
import { findPackages } from './packages.ts'
import type { Verifier } from './verification.ts'

/** Without a budget of its own the cache may take this share of what is free or its own. */
const SHARE_OF_DISK = 0.9
const TELL_EVERY_MS = 5_000

/** What the engine needs to know of them. */
export function packageSource(
  { packages, bucket, cache: directory }: Pick<Config, 'packages' | 'bucket' | 'cache'>,
  verifier: Verifier,
  log: Logger,
) {
  if (!bucket) return { packages: packages! }
  return {
    packages: packages === null ? bucket.address.url : `${packages} and ${bucket.address.url}`,
    async bringPackages(): Promise<Package[]> {
      const mounted = packages === null ? [] : await findPackages(packages)
      const absent = bucket.models.filter(
        ({ model, tier }) => !mounted.some(({ manifest }) => manifest.model === model && manifest.tier === tier),
      )
      if (absent.length === 0) return mounted
      const cache = createPackageCache({
        directory,
        budgetBytes: bucket.cacheBytes || (await mostOfTheDisk(directory)),
        bucket: openBucket(bucket.address),
        verifier,
        log,
        onProgress: progressLog(log),
      })
      const fetched: Package[] = []
      for (const name of absent) fetched.push(await cache.ensure(name))
      return [...mounted, ...fetched]
    },
  }
}

async function mostOfTheDisk(directory: string): Promise<number> {
  await mkdir(directory, { recursive: true })
  const { bavail, bsize } = await statfs(directory)
  return Math.floor((bavail * bsize + (await usedBy(directory))) * SHARE_OF_DISK)
}

function progressLog(log: Logger) {
  let told = 0
  return (doneBytes: number, totalBytes: number) => {
    if (Date.now() - told < TELL_EVERY_MS) return
    told = Date.now()
    log.info({ doneBytes, totalBytes }, 'fetching a package')
  }
}

// The source of this process's packages: a mounted directory, and a bucket for packages that are not in it.
import { mkdir, statfs } from 'node:fs/promises'
import type { Logger } from 'pino'
import type { Config } from '../config.ts'
import type { ControlnetPackage, LoraPackage } from '../manifest.ts'
import { findControlnets } from './additions/controlnet-packages.ts'
import { findLoras } from './additions/lora-packages.ts'
import { cacheBytes, type FetchedPackage, PackageCache } from './cache.ts'
import { openBucket } from './download/bucket.ts'
import { findPackages } from './packages.ts'
import type { Verifier } from './verification.ts'

/** Default budget of the cache, as a share of its own size and the free space. */
const SHARE_OF_DISK = 0.9
const LOG_INTERVAL_MS = 5_000

type SourceConfig = Pick<Config, 'packages' | 'bucket' | 'cache'> & Partial<Pick<Config, 'sequentialStart'>>

/** The engine's options for its packages. */
export function packageSource(
  { packages, bucket, cache: directory, sequentialStart }: SourceConfig,
  verifier: Verifier,
  log: Logger,
) {
  if (!bucket) return { packages: packages! }
  return {
    packages: packages === null ? bucket.address.url : `${packages} and ${bucket.address.url}`,
    /** Adapters are in the mounted directory only. */
    fetchLoras: async (): Promise<LoraPackage[]> => (packages === null ? [] : findLoras(packages)),
    /** ControlNets, likewise. */
    fetchControlnets: async (): Promise<ControlnetPackage[]> => (packages === null ? [] : findControlnets(packages)),
    async fetchPackages(): Promise<FetchedPackage[]> {
      const mounted = packages === null ? [] : await findPackages(packages)
      const absent = bucket.models.filter(
        ({ model, tier }) => !mounted.some(({ manifest }) => manifest.model === model && manifest.tier === tier),
      )
      const onDisk = mounted.map((each) => ({ package: each, complete: Promise.resolve() }))
      if (absent.length === 0) return onDisk
      const cache = new PackageCache({
        directory,
        budgetBytes: bucket.cacheBytes || (await computeDefaultBudget(directory)),
        bucket: openBucket(bucket.address),
        verifier,
        log,
        onProgress: createProgressLog(log),
      })
      const fetched: FetchedPackage[] = []
      // One download at a time: the first package, which loads first, gets the whole bandwidth.
      for (const name of absent)
        fetched.push(
          sequentialStart
            ? { package: await cache.ensure(name), complete: Promise.resolve() }
            : await cache.begin(name, fetched.at(-1)?.complete),
        )
      return [...onDisk, ...fetched]
    },
  }
}

async function computeDefaultBudget(directory: string): Promise<number> {
  await mkdir(directory, { recursive: true })
  const { bavail, bsize } = await statfs(directory)
  return Math.floor((bavail * bsize + (await cacheBytes(directory))) * SHARE_OF_DISK)
}

function createProgressLog(log: Logger) {
  let logged = 0
  return (doneBytes: number, totalBytes: number) => {
    if (Date.now() - logged < LOG_INTERVAL_MS) return
    logged = Date.now()
    log.info({ doneBytes, totalBytes }, 'fetching a package')
  }
}

// Processes download packages from a bucket that stalls, truncates and corrupts responses, and are killed at random times. No incomplete or
// corrupt package may ever open.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { PackageName } from '../../../gpu-fn/weights/layout.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { startBucket } from '../../local/bucket.ts'
import { uploadPackage, uploadTarget } from '../../weights/upload.ts'
import { startTroubleProxy, type Trouble } from '../faults/trouble-proxy.ts'
import { type Random, randomOf } from '../random.ts'
import type { Task } from './program.ts'

const PROGRAM = path.join(import.meta.dirname, 'program.ts')
/** Lifetime of a process: from the start of Node to more than a download without faults. Short lifetimes are more frequent. */
const LIFE_MS = { min: 200, max: 4_000 }
const drawLifetime = (random: Random) => LIFE_MS.min * (LIFE_MS.max / LIFE_MS.min) ** random.next()

export type PackageCampaignOptions = {
  rounds: number
  seed: number
  /** Packages in the bucket. They share blobs, as tiers do. */
  packages: { name: PackageName; directory: string }[]
  /** Less than the total size, so that packages are evicted. */
  budgetBytes: number
}

export type PackageCampaign = { counts: Record<string, number>; problems: string[] }

/** Runs the campaign in a temporary directory. */
export async function runPackageCampaign(options: PackageCampaignOptions): Promise<PackageCampaign> {
  const { rounds, seed, packages, budgetBytes } = options
  const scratch = await mkdtemp(path.join(tmpdir(), 'octet-package-campaign-'))
  const bucket = await startBucket(path.join(scratch, 'bucket'))
  const { origin, pathname } = new URL(bucket.address.url)
  const faults = randomOf(seed, 'faults')
  const proxy = await startTroubleProxy(origin, () => drawFault(faults))
  const counts = { killed: 0, finished: 0, refused: 0, 'cache audits': 0, 'packages verified': 0 }
  const problems: string[] = []
  try {
    for (const { directory } of packages) await uploadPackage(uploadTarget(bucket.address), directory)
    const cache = path.join(scratch, 'cache')
    const random = randomOf(seed, 'kills')
    for (let round = 0; round < rounds; round++) {
      const { name } = packages[random.between(0, packages.length - 1)]!
      const task: Task = { directory: cache, url: proxy.url + pathname, budgetBytes, name }
      const together = random.chance(0.2) ? 2 : 1
      const fates = Array.from({ length: together }, () => runAndKill(task, drawLifetime(random)))
      for (const fate of await Promise.all(fates)) counts[fate] += 1
      counts['cache audits'] += 1
      counts['packages verified'] += await auditCache(cache, problems)
    }
    // The remains of killed processes must not affect a process without faults.
    const last = await runAndKill(
      { directory: cache, url: bucket.address.url, budgetBytes, name: packages[0]!.name },
      120_000,
    )
    if (last !== 'finished') problems.push(`a process without faults after the campaign was ${last}`)
  } finally {
    proxy.close()
    await bucket.stop()
    await rm(scratch, { recursive: true, force: true })
  }
  const corrupted = proxy.requests.filter(({ trouble }) => trouble !== 'none').length
  return { counts: { ...counts, requests: proxy.requests.length, 'requests with faults': corrupted }, problems }
}

function drawFault(random: Random): Trouble {
  const bytes = random.between(0, 64 * 1024)
  const kind = random.pick({ none: 92, cut: 3, flip: 1, short: 1, stall: 1, status: 2 })
  if (kind === 'none') return 'none'
  return kind === 'status' ? { kind, status: 503 } : { kind, bytes }
}

/** Runs one process, and kills it after `ms`. */
async function runAndKill(task: Task, ms: number): Promise<'finished' | 'killed' | 'refused'> {
  const child = spawn(process.execPath, [PROGRAM, JSON.stringify(task)], { stdio: 'ignore' })
  const timer = setTimeout(() => child.kill('SIGKILL'), ms)
  const { promise, resolve } = Promise.withResolvers<'finished' | 'killed' | 'refused'>()
  child.on('exit', (code, signal) => resolve(signal ? 'killed' : code === 0 ? 'finished' : 'refused'))
  return promise.finally(() => clearTimeout(timer))
}

/** Opens and verifies all packages and blobs in the cache. Returns the number of packages. */
async function auditCache(cache: string, problems: string[]): Promise<number> {
  let opened = 0
  for (const name of await readdir(path.join(cache, 'packages')).catch(() => [])) {
    if (name.startsWith('.')) continue
    const at = path.join(cache, 'packages', name)
    try {
      const { digest } = await openPackage(at, { verify: true })
      if (digest !== name) problems.push(`${name} contains package ${digest}`)
      opened += 1
    } catch (error) {
      problems.push(`${name} is not a valid package: ${(error as Error).message}`)
    }
  }
  for (const name of await readdir(path.join(cache, 'blobs')).catch(() => [])) {
    if (name.startsWith('.')) continue
    const digest = createHash('sha256')
      .update(await readFile(path.join(cache, 'blobs', name)))
      .digest('hex')
    if (digest !== name) problems.push(`blob ${name} has the SHA-256 ${digest}`)
  }
  return opened
}

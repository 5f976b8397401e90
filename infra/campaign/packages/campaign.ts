// Processes that fetch packages from a bucket that stalls, cuts off and lies, killed at any moment. Whatever they leave, nothing may open as
// a package that is not one, byte for byte.
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
/** Node itself takes most of the first; a fetch without trouble ends before the last. Shorter lives are more frequent. */
const LIFE_MS = { min: 200, max: 4_000 }
const lifeOf = (random: Random) => LIFE_MS.min * (LIFE_MS.max / LIFE_MS.min) ** random.next()

export type PackageCampaignOptions = {
  rounds: number
  seed: number
  /** Packages to serve, by the name that is asked for. They share blobs, as tiers do. */
  packages: { name: PackageName; directory: string }[]
  /** Less than all of them take together, so that some are let go of. */
  budgetBytes: number
}

export type PackageCampaign = { counts: Record<string, number>; problems: string[] }

/** Runs the campaign in a fresh directory that is removed at its end. */
export async function runPackageCampaign(options: PackageCampaignOptions): Promise<PackageCampaign> {
  const { rounds, seed, packages, budgetBytes } = options
  const scratch = await mkdtemp(path.join(tmpdir(), 'octet-package-campaign-'))
  const bucket = await startBucket(path.join(scratch, 'bucket'))
  const { origin, pathname } = new URL(bucket.address.url)
  const faults = randomOf(seed, 'faults')
  const proxy = await startTroubleProxy(origin, () => faultOf(faults))
  const counts = { killed: 0, finished: 0, refused: 0, 'looks at the disk': 0, 'packages opened and compared': 0 }
  const problems: string[] = []
  try {
    for (const { directory } of packages) await uploadPackage(uploadTarget(bucket.address), directory)
    const cache = path.join(scratch, 'cache')
    const random = randomOf(seed, 'kills')
    for (let round = 0; round < rounds; round++) {
      const { name } = packages[random.between(0, packages.length - 1)]!
      const task: Task = { directory: cache, url: proxy.url + pathname, budgetBytes, name }
      const together = random.chance(0.2) ? 2 : 1
      const fates = Array.from({ length: together }, () => runAndKill(task, lifeOf(random)))
      for (const fate of await Promise.all(fates)) counts[fate] += 1
      counts['looks at the disk'] += 1
      counts['packages opened and compared'] += await look(cache, problems)
    }
    // What all of this left behind must not stand in the way of a process that is let run.
    const last = await runAndKill(
      { directory: cache, url: bucket.address.url, budgetBytes, name: packages[0]!.name },
      120_000,
    )
    if (last !== 'finished') problems.push(`a process that was let run after the campaign ${last}`)
  } finally {
    proxy.close()
    await bucket.stop()
    await rm(scratch, { recursive: true, force: true })
  }
  const spoilt = proxy.requests.filter(({ trouble }) => trouble !== 'none').length
  return { counts: { ...counts, requests: proxy.requests.length, 'of them spoilt': spoilt }, problems }
}

function faultOf(random: Random): Trouble {
  const bytes = random.between(0, 64 * 1024)
  const kind = random.pick({ none: 92, cut: 3, flip: 1, short: 1, stall: 1, status: 2 })
  if (kind === 'none') return 'none'
  return kind === 'status' ? { kind, status: 503 } : { kind, bytes }
}

/** How one process ended: by its own refusal, killed, or with its package. */
async function runAndKill(task: Task, ms: number): Promise<'finished' | 'killed' | 'refused'> {
  const child = spawn(process.execPath, [PROGRAM, JSON.stringify(task)], { stdio: 'ignore' })
  const timer = setTimeout(() => child.kill('SIGKILL'), ms)
  const { promise, resolve } = Promise.withResolvers<'finished' | 'killed' | 'refused'>()
  child.on('exit', (code, signal) => resolve(signal ? 'killed' : code === 0 ? 'finished' : 'refused'))
  return promise.finally(() => clearTimeout(timer))
}

/** Opens what is there as the GPU function would, and compares every byte; returns how many packages opened. */
async function look(cache: string, problems: string[]): Promise<number> {
  let opened = 0
  for (const name of await readdir(path.join(cache, 'packages')).catch(() => [])) {
    if (name.startsWith('.')) continue
    const at = path.join(cache, 'packages', name)
    try {
      const { digest } = await openPackage(at, { verify: true })
      if (digest !== name) problems.push(`${name} is package ${digest}`)
      opened += 1
    } catch (error) {
      problems.push(`${name} has the name of a package: ${(error as Error).message}`)
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

// Processes download packages from a bucket that stalls, truncates and corrupts responses, and are killed at random times. No incomplete or
// corrupt package may ever open, nor may a package have a corrupt file during its download. KILL_ROUNDS sets the number of processes, or of
// concurrent pairs.
import { spawn } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import type { PackageName } from '../../../../gpu-fn/weights/layout.ts'
import { openPackage } from '../../../../gpu-fn/weights/packages.ts'
import { createNoise, sha256, writeFakePackage } from '../../../../infra/checkpoints/fake-package.ts'
import { type Random, randomOf } from '../../../../infra/command/random.ts'
import { startBucket } from '../../../../infra/local/servers/bucket.ts'
import { createUploadTarget, uploadPackage } from '../../../../infra/weights/upload.ts'
import { useScratch } from '../../../support/scratch.ts'
import type { Task } from '../../../support/weights/download-program.ts'
import { startTroubleProxy, type Trouble } from '../../../support/weights/trouble-proxy.ts'

const scratch = useScratch()
const ROUNDS = Number(process.env.KILL_ROUNDS ?? 25)
const SEED = 6
const PROGRAM = path.join(import.meta.dirname, '../../../support/weights/download-program.ts')
/** Lifetime of a process: from the start of Node to more than a download without faults. Short lifetimes are more frequent. */
const LIFE_MS = { min: 200, max: 4_000 }
const drawLifetime = (random: Random) => LIFE_MS.min * (LIFE_MS.max / LIFE_MS.min) ** random.next()

const MEGABYTE = 1_000_000
/** Holds two of the three packages, so that packages are evicted. */
const BUDGET_BYTES = 7 * MEGABYTE

/** Writes three packages of 4 MB that share half of their bytes, as tiers do. */
async function writePackages(directory: string): Promise<{ name: PackageName; at: string }[]> {
  const shared = {
    'vae.bin': createNoise(MEGABYTE),
    'tokenizer/vocab.json': createNoise(1000),
    'clip.bin': createNoise(MEGABYTE),
  }
  const packages: { name: PackageName; at: string }[] = []
  for (const tier of ['fp8', 'fp8-lite', 'fp16'] as const) {
    const at = path.join(directory, tier)
    const { manifest } = await writeFakePackage(
      at,
      { ...shared, 'transformer.bin': createNoise(2 * MEGABYTE) },
      { tier },
    )
    packages.push({ name: { model: manifest.model, tier, target: manifest.target }, at })
  }
  return packages
}

function drawFault(random: Random): Trouble {
  const bytes = random.between(0, 64 * 1024)
  const kind = random.pick({ none: 92, cut: 3, flip: 1, short: 1, stall: 1, status: 2 })
  if (kind === 'none') return 'none'
  return kind === 'status' ? { kind, status: 503 } : { kind, bytes }
}

type Fate = 'finished' | 'killed' | 'refused' | 'corrupt'

/** Runs one process, and kills it after `ms`. */
function runAndKill(task: Task, ms: number): Promise<Fate> {
  const child = spawn(process.execPath, [PROGRAM, JSON.stringify(task)], { stdio: 'ignore' })
  const timer = setTimeout(() => child.kill('SIGKILL'), ms)
  const { promise, resolve } = Promise.withResolvers<Fate>()
  child.on('exit', (code, signal) => {
    if (signal) resolve(signal === 'SIGABRT' ? 'corrupt' : 'killed')
    else resolve(code === 0 ? 'finished' : 'refused')
  })
  return promise.finally(() => clearTimeout(timer))
}

const listNames = async (directory: string) =>
  (await readdir(directory).catch(() => [])).filter((name) => !name.startsWith('.'))

/** Opens and verifies all packages and blobs in the cache. Returns the number of packages. */
async function verifyCache(cache: string): Promise<number> {
  const packages = await listNames(path.join(cache, 'packages'))
  for (const name of packages)
    expect((await openPackage(path.join(cache, 'packages', name), { verify: true })).digest).toBe(name)
  for (const name of await listNames(path.join(cache, 'blobs')))
    expect(sha256(await readFile(path.join(cache, 'blobs', name)))).toBe(name)
  return packages.length
}

test('incomplete and corrupt packages never open', { timeout: 60_000 + ROUNDS * 10_000 }, async () => {
  const bucket = await startBucket(path.join(scratch.directory, 'bucket'))
  onTestFinished(() => bucket.stop())
  const { origin, pathname } = new URL(bucket.address.url)
  const faults = randomOf(SEED, 'faults')
  const proxy = await startTroubleProxy(origin, () => drawFault(faults))
  onTestFinished(() => proxy.close())
  const packages = await writePackages(scratch.directory)
  for (const { at } of packages) await uploadPackage(createUploadTarget(bucket.address), at)

  const directory = path.join(scratch.directory, 'cache')
  const random = randomOf(SEED, 'kills')
  const counts = { killed: 0, finished: 0, refused: 0, corrupt: 0, verified: 0 }
  for (let round = 0; round < ROUNDS; round++) {
    const { name } = packages[random.between(0, packages.length - 1)]!
    const task: Task = { directory, url: proxy.url + pathname, budgetBytes: BUDGET_BYTES, name }
    const together = random.chance(0.2) ? 2 : 1
    const fates = Array.from({ length: together }, () => runAndKill(task, drawLifetime(random)))
    for (const fate of await Promise.all(fates)) counts[fate] += 1
    counts.verified += await verifyCache(directory)
  }
  console.log(JSON.stringify(counts))
  expect(counts.corrupt).toBe(0)
  expect(counts.killed).toBeGreaterThan(0)
  expect(counts.verified).toBeGreaterThan(0)

  // Files left by killed processes do not affect a process without faults.
  const last: Task = { directory, url: bucket.address.url, budgetBytes: BUDGET_BYTES, name: packages[0]!.name }
  expect(await runAndKill(last, 120_000)).toBe('finished')
  expect(await verifyCache(directory)).toBeGreaterThan(0)
})

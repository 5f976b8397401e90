// Packages whose files are in use before their download is complete.
import { mkdir, readdir, readFile, realpath, rm, stat, utimes, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { PackageCache } from '../../../../gpu-fn/weights/cache.ts'
import { waitForFiles } from '../../../../gpu-fn/weights/download/arrival.ts'
import { createArrivingPackage } from '../../../../gpu-fn/weights/download/arriving-package.ts'
import { openBucket } from '../../../../gpu-fn/weights/download/bucket.ts'
import { openPackage } from '../../../../gpu-fn/weights/packages.ts'
import { Verifier } from '../../../../gpu-fn/weights/verification.ts'
import { createNoise, sha256, writeFakePackage } from '../../../../infra/checkpoints/fake-package.ts'
import { startBucket } from '../../../../infra/local/servers/bucket.ts'
import { createUploadTarget, uploadPackage } from '../../../../infra/weights/upload.ts'
import { useScratch } from '../../../support/scratch.ts'
import { startTroubleProxy, type Trouble } from '../../../support/weights/trouble-proxy.ts'

const scratch = useScratch()
const NAME = { model: 'large-turbo', tier: 'fp8', target: 'cuda' } as const
const SMALL = createNoise(1_000)
const LARGE = createNoise(300_000)

let server: Awaited<ReturnType<typeof startBucket>>
let digest: string
beforeAll(async () => {
  server = await startBucket(path.join(scratch.root, 'bucket'))
  const at = path.join(scratch.root, 'package')
  const files = { 'tokenizer/vocab.json': SMALL, 'transformer.bin': LARGE, 'copy.bin': LARGE }
  digest = (await writeFakePackage(at, files, NAME)).digest
  await uploadPackage(createUploadTarget(server.address), at)
})
afterAll(() => server.stop())

const log = { info() {}, warn() {} } as never

/** A cache in the test's directory, before a bucket whose replies `plan` spoils. */
async function openCache(
  plan: (request: { path: string; count: number }) => Trouble = () => 'none',
  verifier = new Verifier({ directory: scratch.directory, log }),
) {
  const { origin, pathname } = new URL(server.address.url)
  const proxy = await startTroubleProxy(origin, plan)
  onTestFinished(() => proxy.close())
  const bucket = openBucket({ ...server.address, url: proxy.url + pathname }, { stallMs: 300, tries: 3, pauseMs: 5 })
  const { directory } = scratch
  return new PackageCache({ directory, budgetBytes: 1e9, bucket, verifier, log })
}

const isSmall = (name: string) => name.startsWith('tokenizer/')
const listPackages = () => readdir(path.join(scratch.directory, 'packages'))
const listLinks = () => readdir(path.join(scratch.directory, 'links'))

test('a file is in the directory once it is verified, before the package is complete', async () => {
  const started = Promise.withResolvers<void>()
  let isHeld = true
  const plan = ({ path: at }: { path: string }): Trouble => {
    if (!at.includes(sha256(LARGE)) || !isHeld) return 'none'
    started.resolve()
    return { kind: 'stall', bytes: 100 }
  }
  const { package: pkg, complete } = await (await openCache(plan)).begin(NAME)
  await started.promise
  await waitForFiles(pkg, isSmall)
  expect(await readFile(path.join(pkg.directory, 'tokenizer/vocab.json'))).toEqual(Buffer.from(SMALL))
  expect((await readdir(pkg.directory)).includes('transformer.bin')).toBe(false)
  isHeld = false
  await complete
  await waitForFiles(pkg, () => true)
  // The same path leads to the complete package.
  expect(await realpath(pkg.directory)).toBe(await realpath(path.join(scratch.directory, 'packages', digest)))
  expect((await openPackage(pkg.directory, { verify: true })).digest).toBe(digest)
  expect(await listPackages()).toEqual([digest])

  // The next download removes the link of a package that is gone.
  await rm(path.join(scratch.directory, 'packages', digest), { recursive: true })
  const again = await (await openCache()).begin(NAME)
  await again.complete
  expect(await listLinks()).toEqual([path.basename(again.package.directory)])
})

test('a package on disk is complete at once', async () => {
  await (await openCache()).ensure(NAME)
  const { package: pkg, complete } = await (await openCache(() => 'none')).begin(NAME)
  expect(pkg.arrival).toBeUndefined()
  await complete
  await waitForFiles(pkg, () => true)
})

test('a failed download ends the wait for its files, and leaves none', async () => {
  const plan = ({ path: at }: { path: string }): Trouble =>
    at.includes(sha256(LARGE)) ? { kind: 'status', status: 404 } : 'none'
  const { package: pkg, complete } = await (await openCache(plan)).begin(NAME)
  await Promise.all([
    expect(complete).rejects.toMatchObject({ name: 'BucketError' }),
    expect(waitForFiles(pkg, () => true)).rejects.toThrow(/was not downloaded/),
  ])
  expect(await listPackages()).toEqual([])
  expect(await listLinks()).toEqual([])
})

test('a corrupt file is not in the directory before it was downloaded again', async () => {
  let flips = 1
  const plan = ({ path: at }: { path: string }): Trouble =>
    at.includes(sha256(LARGE)) && flips-- > 0 ? { kind: 'flip', bytes: 100 } : 'none'
  const { package: pkg, complete } = await (await openCache(plan)).begin(NAME)
  await waitForFiles(pkg, (name) => name === 'transformer.bin')
  expect(await readFile(path.join(pkg.directory, 'transformer.bin'))).toEqual(Buffer.from(LARGE))
  await complete
  expect(flips).toBeLessThan(0)
})

test('a file that stays corrupt is never in the directory', async () => {
  const plan = ({ path: at }: { path: string }): Trouble =>
    at.includes(sha256(LARGE)) ? { kind: 'flip', bytes: 100 } : 'none'
  const { package: pkg, complete } = await (await openCache(plan)).begin(NAME)
  await Promise.all([
    expect(complete).rejects.toMatchObject({ name: 'CorruptDownload' }),
    expect(waitForFiles(pkg, (name) => name === 'transformer.bin')).rejects.toThrow(/was not downloaded/),
  ])
  expect(await listPackages()).toEqual([])
  expect(await listLinks()).toEqual([])
})

test('a corrupt file from an earlier download is replaced before it is in the directory', async () => {
  const blobs = path.join(scratch.directory, 'blobs')
  const corrupt = Buffer.from(LARGE)
  corrupt[7]! ^= 1
  await mkdir(blobs, { recursive: true })
  await writeFile(path.join(blobs, sha256(LARGE)), corrupt)
  const { package: pkg, complete } = await (await openCache()).begin(NAME)
  await waitForFiles(pkg, () => true)
  expect(await readFile(path.join(pkg.directory, 'transformer.bin'))).toEqual(Buffer.from(LARGE))
  await complete
  expect((await openPackage(pkg.directory, { verify: true })).digest).toBe(digest)
})

test('a file that another process removes from the cache is downloaded again', async () => {
  await (await openCache()).ensure(NAME)
  const { directory } = scratch
  const blobs = path.join(directory, 'blobs')
  await rm(path.join(directory, 'packages', digest), { recursive: true })
  const evicted = [path.join(blobs, sha256(LARGE))]
  class Evicting extends Verifier {
    override async verify(...given: Parameters<Verifier['verify']>): Promise<void> {
      for (const file of evicted.splice(0)) await rm(file)
      return super.verify(...given)
    }
  }
  let downloads = 0
  const plan = ({ path: at }: { path: string }): Trouble => {
    if (at.includes(sha256(LARGE))) downloads += 1
    return 'none'
  }
  const { package: pkg, complete } = await (await openCache(plan, new Evicting({ directory, log }))).begin(NAME)
  await complete
  expect(downloads).toBe(1)
  expect((await openPackage(pkg.directory, { verify: true })).digest).toBe(digest)
})

test('files of an interrupted download are not hashed again', async () => {
  let reply: Trouble = { kind: 'stall', bytes: 100 }
  const plan = ({ path: at }: { path: string }): Trouble => (at.includes(sha256(LARGE)) ? reply : 'none')
  const { package: pkg, complete } = await (await openCache(plan)).begin(NAME)
  await waitForFiles(pkg, isSmall)
  reply = { kind: 'status', status: 404 }
  await expect(complete).rejects.toMatchObject({ name: 'BucketError' })
  const { directory } = scratch
  const small = sha256(SMALL)
  const files = { [small]: { bytes: SMALL.length, sha256: small } }
  let hashed = 0
  const blobs = { directory: path.join(directory, 'blobs'), manifest: { files } }
  await new Verifier({ directory, log }).verify(blobs, () => void hashed++)
  expect(hashed).toBe(0)
})

test('the directory is fresh during a download without progress', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
  onTestFinished(() => void vi.useRealTimers())
  const packages = path.join(scratch.directory, 'packages')
  const served = { digest, bytes: new Uint8Array(), manifest: { files: {} } as never }
  const { package: pkg, discard } = await createArrivingPackage(served, packages)
  const ageOf = async () => Date.now() - (await stat(pkg.directory)).mtimeMs
  await utimes(pkg.directory, 0, 0)
  vi.advanceTimersByTime(20_000)
  await expect.poll(ageOf).toBeLessThan(20_000)
  await discard()
  expect(vi.getTimerCount()).toBe(0)
})

test('a download begins after the one before it, and fails with it', async () => {
  const cache = await openCache()
  const before = Promise.withResolvers<void>()
  const { complete } = await cache.begin(NAME, before.promise)
  before.reject(new Error('the first download failed'))
  await expect(complete).rejects.toThrow('the first download failed')
})

test('files that are on disk already are there from the beginning of the download', async () => {
  const manifest = { files: { a: { bytes: 1, sha256: sha256('a') }, 'b/c': { bytes: 1, sha256: sha256('a') } } }
  const packages = path.join(scratch.directory, 'packages')
  const arriving = await createArrivingPackage(
    { digest, bytes: new Uint8Array(), manifest: manifest as never },
    packages,
  )
  const blob = path.join(scratch.directory, 'blob')
  await mkdir(scratch.directory, { recursive: true })
  await writeFile(blob, 'a')
  await Promise.all([arriving.add(sha256('a'), blob), arriving.add(sha256('a'), blob)])
  await arriving.add(sha256('a'), blob)
  await waitForFiles(arriving.package, () => true)
  expect(await readFile(path.join(arriving.package.directory, 'b/c'), 'utf8')).toBe('a')
  await arriving.discard()
  expect(await listPackages()).toEqual([])
})

import { mkdir, readdir, readFile, rename, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { PutObjectCommand } from '@aws-sdk/client-s3'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { PackageCache } from '../../../gpu-fn/weights/cache.ts'
import { openBucket } from '../../../gpu-fn/weights/download/bucket.ts'
import { blobKeyOf, manifestKeyOf, pointerKeyOf } from '../../../gpu-fn/weights/layout.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { Verifier } from '../../../gpu-fn/weights/verification.ts'
import { createNoise, sha256, writeFakePackage } from '../../../infra/checkpoints/fake-package.ts'
import { startBucket } from '../../../infra/local/servers/bucket.ts'
import { type BucketTarget, createUploadTarget, uploadPackage } from '../../../infra/weights/upload.ts'
import { useScratch } from '../../support/scratch.ts'
import { startTroubleProxy, type Trouble, type TroubleProxy } from '../../support/weights/trouble-proxy.ts'

const scratch = useScratch()
const SHARED = createNoise(50_000)
const TURBO = { model: 'large-turbo', tier: 'fp8', target: 'cuda' } as const
const LITE = { ...TURBO, tier: 'fp8-lite' } as const
const LARGE = { ...TURBO, model: 'large' } as const

let server: Awaited<ReturnType<typeof startBucket>>
let target: BucketTarget
let proxy: TroubleProxy | undefined
const digests = new Map<string, string>()

beforeAll(async () => {
  server = await startBucket(path.join(scratch.root, 'bucket'))
  target = createUploadTarget(server.address)
  for (const name of [TURBO, LITE, LARGE]) {
    const at = path.join(scratch.root, `${name.model}-${name.tier}`)
    const { digest } = await writeFakePackage(at, { 'vae.bin': SHARED, 'transformer.bin': createNoise(200_000) }, name)
    await uploadPackage(target, at)
    digests.set(pointerKeyOf(name), digest)
  }
})
afterAll(() => server.stop())
afterEach(() => {
  proxy?.close()
  proxy = undefined
})

const warnings: string[] = []
const log = { info() {}, warn: (_: object, message: string) => void warnings.push(message) }

/** A cache in the test's directory, before a bucket whose replies `plan` spoils. */
async function openCache(
  plan: (request: { path: string; count: number }) => Trouble = () => 'none',
  budgetBytes = 1e9,
) {
  warnings.length = 0
  const { origin, pathname } = new URL(server.address.url)
  proxy = await startTroubleProxy(origin, plan)
  const bucket = openBucket({ ...server.address, url: proxy.url + pathname }, { stallMs: 1500, tries: 5, pauseMs: 5 })
  const download = { connections: 3, spreadBytes: 50_000, touchMs: 20 }
  const { directory } = scratch
  const verifier = new Verifier({ directory, log: log as never })
  const cache = new PackageCache({ directory, budgetBytes, bucket, verifier, log: log as never, download })
  return {
    ensure: cache.ensure.bind(cache),
    begin: cache.begin.bind(cache),
    requests: proxy.requests,
    blobsAsked: () => proxy!.requests.filter((r) => r.path.includes('/blobs/')),
  }
}

const listCache = (folder: string) => readdir(path.join(scratch.directory, folder)).catch(() => [])

test('downloads a complete package once, and then opens it from the disk', async () => {
  const { ensure, blobsAsked } = await openCache()
  const pkg = await ensure(TURBO)
  expect(pkg.digest).toBe(digests.get(pointerKeyOf(TURBO)))
  await openPackage(pkg.directory, { verify: true })
  const asked = blobsAsked().length
  expect((await ensure(TURBO)).directory).toBe(pkg.directory)
  expect(blobsAsked()).toHaveLength(asked)
})

test('reads the shared files of two packages from the disk', async () => {
  const { ensure, blobsAsked } = await openCache()
  await ensure(TURBO)
  const before = blobsAsked().length
  const lite = await ensure(LITE)
  await openPackage(lite.directory, { verify: true })
  expect(
    blobsAsked()
      .slice(before)
      .some(({ path }) => path.includes(sha256(SHARED))),
  ).toBe(false)
})

test('downloads a damaged file again', async () => {
  let flipped = 0
  const plan = ({ path }: { path: string }) =>
    path.includes(sha256(SHARED)) && flipped++ === 0 ? ({ kind: 'flip', bytes: 100 } as const) : 'none'
  const { ensure } = await openCache(plan)
  await openPackage((await ensure(TURBO)).directory, { verify: true })
  expect(warnings).toEqual(['a file of a package is corrupt; it is downloaded again'])
})

test('fails on a file that is always corrupt, and leaves no package', async () => {
  const { ensure } = await openCache(({ path }) =>
    path.includes(sha256(SHARED)) ? { kind: 'flip', bytes: 100 } : 'none',
  )
  await expect(ensure(TURBO)).rejects.toMatchObject({ name: 'CorruptDownload' })
  expect(await listCache('packages')).toEqual([])
  expect(await listCache('blobs')).not.toContain(sha256(SHARED))
  expect((await listCache('blobs')).filter((name) => name.startsWith('.'))).toEqual([])
})

test('completes despite stalls, disconnects and busy responses', async () => {
  const troubles: Trouble[] = [
    { kind: 'cut', bytes: 5_000 },
    { kind: 'status', status: 503 },
    { kind: 'stall', bytes: 9_000 },
    { kind: 'short', bytes: 100 },
  ]
  const { ensure } = await openCache(({ count }) => (count % 2 ? 'none' : (troubles[(count / 2) % 4] ?? 'none')))
  await openPackage((await ensure(LARGE)).directory, { verify: true })
})

test('resumes after a failure of the bucket with the complete files', async () => {
  const broken = await openCache(({ path }) =>
    path.includes('/blobs/') && !path.includes(sha256(SHARED)) ? { kind: 'status', status: 500 } : 'none',
  )
  await expect(broken.ensure(TURBO)).rejects.toMatchObject({ name: 'BucketError' })
  proxy!.close()
  const blobs = await listCache('blobs')
  const mended = await openCache()
  await mended.ensure(TURBO)
  for (const name of blobs) expect(mended.blobsAsked().some(({ path }) => path.includes(name))).toBe(false)
})

test('evicts the least recently used package at the budget limit', async () => {
  const first = await openCache()
  await first.ensure(TURBO)
  await first.ensure(LARGE)
  proxy!.close()
  const [turbo, large] = [TURBO, LARGE].map((name) => digests.get(pointerKeyOf(name))!)
  const old = new Date(Date.now() - 1e6)
  await utimes(path.join(scratch.directory, 'packages', large!), old, old)
  const { ensure } = await openCache(undefined, 500_000)
  await ensure(LITE)
  expect((await listCache('packages')).sort()).toEqual([turbo!, digests.get(pointerKeyOf(LITE))!].sort())
  const sizes = (await listCache('blobs')).map(
    async (name) => (await stat(path.join(scratch.directory, 'blobs', name))).size,
  )
  expect((await Promise.all(sizes)).reduce((sum, size) => sum + size)).toBeLessThanOrEqual(500_000)
})

test('never evicts a package in use, and states the missing budget', async () => {
  const { ensure } = await openCache(undefined, 400_000)
  await ensure(TURBO)
  await expect(ensure(LARGE)).rejects.toMatchObject({
    name: 'CacheFull',
    message: expect.stringMatching(
      /may take 400000 bytes, \d+ are in use, and 200000 more are needed: raise OCTET_CACHE_BYTES/,
    ),
  })
  expect(await listCache('packages')).toEqual([digests.get(pointerKeyOf(TURBO))])
})

test('a package above the budget does not wait for its own directory, nor for that of another process', async () => {
  const { ensure, begin } = await openCache(undefined, 400_000)
  await ensure(TURBO)
  await mkdir(path.join(scratch.directory, 'packages', '.arriving-other'))
  await expect((await begin(LARGE)).complete).rejects.toMatchObject({ name: 'CacheFull' })
})

test('a package waits for the removal of the directory that an ended process has left', async () => {
  const { ensure, begin } = await openCache(undefined, 300_000)
  const { directory } = await ensure(TURBO)
  const left = path.join(scratch.directory, 'packages', '.arriving-left')
  await rename(directory, left)
  const [now, soon] = [new Date(), new Date(Date.now() - 28_500)]
  await utimes(left, now, soon)
  await (await begin(LARGE)).complete
  expect(await listCache('packages')).toEqual([digests.get(pointerKeyOf(LARGE))])
})

test('serves the most recent package while the bucket is unavailable', async () => {
  const first = await openCache()
  const { digest } = await first.ensure(TURBO)
  proxy!.close()
  const { ensure } = await openCache(() => ({ kind: 'status', status: 503 }))
  expect((await ensure(TURBO)).digest).toBe(digest)
  expect(warnings).toEqual(['the bucket cannot be read; the most recently used package is served'])
  await expect(ensure(LARGE)).rejects.toMatchObject({ name: 'BucketError' })
})

test('downloads truncated files again', async () => {
  const { ensure } = await openCache()
  const { directory } = await ensure(TURBO)
  await truncate(path.join(directory, 'transformer.bin'), 10)
  await openPackage((await ensure(TURBO)).directory, { verify: true })
})

test.each(['transformer.bin', 'vae.bin'])('downloads the package again if %s is corrupted on disk', async (name) => {
  const { ensure, blobsAsked } = await openCache()
  const { directory } = await ensure(TURBO)
  const bytes = await readFile(path.join(directory, name))
  bytes[7]! ^= 1
  await writeFile(path.join(directory, name), bytes)
  const asked = blobsAsked().length
  await openPackage((await ensure(TURBO)).directory, { verify: true })
  expect(blobsAsked().length).toBeGreaterThan(asked)
  expect(warnings).toEqual(['a cached package is corrupt; it is downloaded again'])
})

test('downloads a manifest again if it does not match its digest', async () => {
  const { ensure } = await openCache()
  const { directory, digest } = await ensure(TURBO)
  const at = path.join(directory, 'manifest.json')
  await writeFile(at, (await readFile(at, 'utf8')).replace('"steps":4', '"steps":5'))
  expect((await ensure(TURBO)).digest).toBe(digest)
  expect(warnings).toEqual(['a cached package is corrupt; it is downloaded again'])
})

test('names a model that is not in the bucket', async () => {
  const { ensure } = await openCache()
  await expect(ensure({ ...TURBO, model: 'medium' })).rejects.toMatchObject({
    message: expect.stringMatching(/^models\/medium\/fp8\/cuda\.json is not in http/),
  })
})

const put = (Key: string, Body: string) =>
  target.client.send(new PutObjectCommand({ Bucket: target.bucket, Key, Body }))

test.each<[string, (manifest: string) => string, RegExp]>([
  [
    'a path outside the package',
    (text) => text.replace('"vae.bin"', '"../../vae.bin"'),
    /"\.\.\/\.\.\/vae\.bin" is not a path inside/,
  ],
  [
    'a file in the place of the manifest',
    (text) => text.replace('"vae.bin"', '"manifest.json"'),
    /"manifest\.json" is not a path/,
  ],
  [
    'another model',
    (text) => text.replace('"model":"large-turbo"', '"model":"medium"'),
    /is medium:fp8 for cuda, not evil:fp8/,
  ],
  ['no JSON', () => '{', /manifest\.json is not JSON/],
  [
    'a path in the place of a digest',
    (text) => text.replace(sha256(SHARED), '../packages'),
    /manifest\.json is not valid: .*SHA-256 in lower-case hex/s,
  ],
])('refuses a manifest with %s', async (_, spoil, message) => {
  const evil = { ...TURBO, model: 'evil' }
  const text = await readFile(path.join(scratch.root, 'large-turbo-fp8', 'manifest.json'), 'utf8')
  const spoilt = spoil(text)
  const named = message.source.includes('medium') ? spoilt : spoilt.replace('"model":"large-turbo"', '"model":"evil"')
  await put(manifestKeyOf(sha256(named)), named)
  await put(pointerKeyOf(evil), JSON.stringify({ package: sha256(named) }))
  const { ensure } = await openCache()
  await expect(ensure(evil)).rejects.toMatchObject({ name: 'PackageError', message: expect.stringMatching(message) })
  expect(await listCache('packages')).toEqual([])
})

test('refuses a manifest whose digest differs from its name, and a malformed pointer', async () => {
  const digest = 'a'.repeat(64)
  await put(manifestKeyOf(digest), '{}')
  await put(pointerKeyOf({ ...TURBO, model: 'lost' }), JSON.stringify({ package: digest }))
  await put(pointerKeyOf({ ...TURBO, model: 'odd' }), '["a"]')
  await put(pointerKeyOf({ ...TURBO, model: 'path' }), JSON.stringify({ package: '../blobs/a' }))
  const { ensure } = await openCache()
  await expect(ensure({ ...TURBO, model: 'lost' })).rejects.toThrow(/does not match the SHA-256 in its name/)
  for (const model of ['odd', 'path'])
    await expect(ensure({ ...TURBO, model })).rejects.toThrow(/is not a pointer to a package/)
})

test('removes incomplete files of a killed process', async () => {
  const { ensure } = await openCache()
  await ensure(TURBO)
  const left = path.join(scratch.directory, 'blobs', '.0123456789abcdef.part')
  await writeFile(left, createNoise(100))
  const old = new Date(Date.now() - 60_000)
  await utimes(left, old, old)
  await ensure(LARGE)
  expect((await listCache('blobs')).filter((name) => name.startsWith('.'))).toEqual([])
})

test('removes incomplete files whose time a correction of the clock has put into the future', async () => {
  const first = await openCache()
  await first.ensure(TURBO)
  proxy!.close()
  const left = path.join(scratch.directory, 'blobs', '.0123456789abcdef.part')
  await writeFile(left, createNoise(100_000))
  const future = new Date(Date.now() + 86_400_000)
  await utimes(left, future, future)
  const { ensure } = await openCache(undefined, 300_000)
  await ensure(LITE)
  expect((await listCache('blobs')).filter((name) => name.startsWith('.'))).toEqual([])
})

test('keeps the incomplete files of a download that the bucket stalls', async () => {
  const one = await openCache(({ path, count }) =>
    path.includes('/blobs/') && count < 6 ? { kind: 'stall', bytes: 1_000 } : 'none',
  )
  const stalled = one.ensure(TURBO)
  const partials = async () => (await listCache('blobs')).filter((name) => name.endsWith('.part'))
  await expect.poll(async () => (await partials()).length).toBeGreaterThan(0)
  await sleep(300) // the bucket has sent what it sends before the stall
  const old = new Date(Date.now() - 60_000)
  for (const name of await partials()) await utimes(path.join(scratch.directory, 'blobs', name), old, old)
  await sleep(100)
  const stalledProxy = proxy!
  const other = await openCache()
  await other.ensure(LARGE)
  await openPackage((await stalled).directory, { verify: true })
  stalledProxy.close()
})

test('makes room with what an interrupted eviction and an interrupted assembly have left', async () => {
  const first = await openCache(undefined, 500_000)
  const packages = path.join(scratch.directory, 'packages')
  const [turbo, large] = [TURBO, LARGE].map((name) => path.join(packages, digests.get(pointerKeyOf(name))!))
  await first.ensure(TURBO)
  await first.ensure(LARGE)
  proxy!.close()
  await rename(turbo!, path.join(packages, '.removed-0123'))
  const assembly = path.join(packages, '.package-0123')
  await rename(large!, assembly)
  const recent = new Date(Date.now() - 29_000)
  await utimes(assembly, recent, recent)
  const { ensure } = await openCache(undefined, 300_000)
  await ensure(LITE)
  expect(await listCache('packages')).toEqual([digests.get(pointerKeyOf(LITE))])
})

test('two processes can download the same package at the same time', async () => {
  const one = await openCache()
  const both = await Promise.all([one.ensure(LARGE), one.ensure(LARGE)])
  for (const { directory } of both) await openPackage(directory, { verify: true })
  await rm(scratch.directory, { recursive: true })
})

test('blob and manifest keys accept only a SHA-256 digest', () => {
  for (const keyOf of [blobKeyOf, manifestKeyOf]) {
    expect(keyOf('a'.repeat(64))).toContain('a'.repeat(64))
    for (const text of ['', '../models/x', 'A'.repeat(64), `${'a'.repeat(64)}\n`])
      expect(() => keyOf(text)).toThrow('SHA-256')
  }
})

import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { GetObjectCommand } from '@aws-sdk/client-s3'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { blobKeyOf, manifestKeyOf, pointerKeyOf } from '../../../gpu-fn/weights/layout.ts'
import { createNoise, sha256, writeFakePackage } from '../../../infra/checkpoints/fake-package.ts'
import { startBucket } from '../../../infra/local/servers/bucket.ts'
import { type BucketTarget, createUploadTarget, rollBack, uploadPackage } from '../../../infra/weights/upload.ts'
import { useScratch } from '../../support/scratch.ts'
import { startTroubleProxy, type Trouble, type TroubleProxy } from '../../support/weights/trouble-proxy.ts'

const scratch = useScratch()
const PART = 5 << 20
let server: Awaited<ReturnType<typeof startBucket>>
let target: BucketTarget
let proxy: TroubleProxy | undefined
beforeAll(async () => {
  server = await startBucket(path.join(scratch.root, 'bucket'))
  target = createUploadTarget(server.address)
})
afterAll(() => server.stop())
afterEach(() => {
  proxy?.close()
  proxy = undefined
})

const read = async (Key: string) => {
  const { Body } = await target.client.send(new GetObjectCommand({ Bucket: target.bucket, Key }))
  return Buffer.from(await Body!.transformToByteArray())
}
const pointerOf = async (name: Parameters<typeof pointerKeyOf>[0]) =>
  JSON.parse((await read(pointerKeyOf(name))).toString())

/** A target behind a proxy. The plan receives the number of parts of a large blob that were sent before. */
async function openBehindProxy(plan: (part: number | null) => Trouble): Promise<BucketTarget> {
  const { origin, pathname } = new URL(server.address.url)
  proxy = await startTroubleProxy(origin, ({ path }) => {
    const part = /partNumber=(\d+)/.exec(path)?.[1]
    return plan(part === undefined ? null : Number(part))
  })
  return createUploadTarget({ ...server.address, url: proxy.url + pathname })
}

test('blobs, manifest and pointer have the keys that the GPU function reads, and a second upload sends nothing', async () => {
  const at = path.join(scratch.directory, 'package')
  const weights = createNoise(12 * 1024 * 1024)
  const name = { model: 'first', tier: 'fp8', target: 'cuda' } as const
  const { digest } = await writeFakePackage(at, { 'transformer.bin': weights, 'empty.txt': new Uint8Array() }, name)
  const sent = await uploadPackage(target, at, { partBytes: PART })
  expect(sent).toMatchObject({ package: digest, presentBytes: 0, pointed: true })
  expect(Buffer.compare(await read(blobKeyOf(sha256(weights))), weights)).toBe(0)
  expect(sha256(await read(manifestKeyOf(digest)))).toBe(digest)
  expect(await pointerOf(name)).toEqual({ package: digest, previous: [] })
  expect(await uploadPackage(target, at, { partBytes: PART })).toEqual({
    ...{ package: digest, sentBytes: 0, presentBytes: sent.sentBytes, pointed: false },
  })
})

test('an interrupted upload resumes at its next part, and its package is not served before it is complete', async () => {
  const at = path.join(scratch.directory, 'package')
  const name = { model: 'second', tier: 'fp8', target: 'cuda' } as const
  const weights = createNoise(22 * 1024 * 1024)
  await writeFakePackage(at, { 'transformer.bin': weights }, name)
  const broken = await openBehindProxy((part) => (part === 3 ? { kind: 'status', status: 400 } : 'none'))
  await expect(uploadPackage(broken, at, { partBytes: PART })).rejects.toThrow()
  await expect(pointerOf(name)).rejects.toThrow()
  proxy!.close()
  const parts: number[] = []
  const mended = await openBehindProxy((part) => {
    if (part) parts.push(part)
    return 'none'
  })
  await uploadPackage(mended, at, { partBytes: PART })
  expect(parts).toEqual([3, 4, 5])
  expect(Buffer.compare(await read(blobKeyOf(sha256(weights))), weights)).toBe(0)
})

test('an upload aborted by the bucket starts again', async () => {
  const at = path.join(scratch.directory, 'package')
  const name = { model: 'third', tier: 'fp8', target: 'cuda' } as const
  const weights = createNoise(11 * 1024 * 1024)
  let asked = 0
  await writeFakePackage(at, { 'transformer.bin': weights }, name)
  const digest = sha256(weights)
  // The server here answers 500 where S3 and R2 say NoSuchUpload.
  const forgetful = await openBehindProxy((part) => (part === 2 && !asked++ ? { kind: 'gone' } : 'none'))
  const state = { key: `weights/${blobKeyOf(digest)}`, upload: '0'.repeat(32), partBytes: PART, parts: ['"gone"'] }
  await writeFile(`${at}.${digest.slice(0, 16)}.upload.json`, JSON.stringify(state))
  await uploadPackage(forgetful, at, { partBytes: PART })
  expect(Buffer.compare(await read(blobKeyOf(digest)), weights)).toBe(0)
})

test('tiers share blobs, and a pointer can be rolled back', async () => {
  const name = { model: 'fourth', tier: 'fp8', target: 'cuda' } as const
  const shared = createNoise(100_000)
  const digests: string[] = []
  for (const version of ['one', 'two']) {
    const at = path.join(scratch.directory, version)
    digests.push((await writeFakePackage(at, { 'vae.bin': shared, 'transformer.bin': createNoise(1000) }, name)).digest)
    const { presentBytes } = await uploadPackage(target, at)
    expect(presentBytes).toBeGreaterThanOrEqual(version === 'one' ? 0 : 100_000)
  }
  expect(await pointerOf(name)).toEqual({ package: digests[1], previous: [digests[0]] })
  expect(await rollBack(target, name)).toBe(digests[0])
  expect(await pointerOf(name)).toEqual({ package: digests[0], previous: [digests[1]] })
  await expect(rollBack(target, { ...name, model: 'never' })).rejects.toThrow(/has no previous package of never:fp8/)
})

test('does not upload a package whose bytes differ from its manifest', async () => {
  const at = path.join(scratch.directory, 'package')
  const name = { model: 'spoilt', tier: 'fp8', target: 'cuda' } as const
  await writeFakePackage(at, { 'transformer.bin': createNoise(1000) }, name)
  const bytes = await readFile(path.join(at, 'transformer.bin'))
  bytes[500]! ^= 1
  await writeFile(path.join(at, 'transformer.bin'), bytes)
  await expect(uploadPackage(target, at)).rejects.toThrow(/transformer\.bin does not have the SHA-256/)
  await expect(pointerOf(name)).rejects.toThrow()
})

import { randomBytes } from 'node:crypto'
import type { IncomingHttpHeaders, ServerResponse } from 'node:http'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import { PutObjectCommand } from '@aws-sdk/client-s3'
import { afterAll, afterEach, beforeAll, expect, onTestFinished, test } from 'vitest'
import { openBucket } from '../../../../gpu-fn/weights/download/bucket.ts'
import { serveLocally } from '../../../../infra/command/local-server.ts'
import { startBucket } from '../../../../infra/local/servers/bucket.ts'
import { createUploadTarget } from '../../../../infra/weights/upload.ts'
import { useScratch } from '../../../support/scratch.ts'
import { startTroubleProxy, type Trouble, type TroubleProxy } from '../../../support/weights/trouble-proxy.ts'

const scratch = useScratch()
const data = randomBytes(300_000)
let server: Awaited<ReturnType<typeof startBucket>>
let proxy: TroubleProxy | undefined

beforeAll(async () => {
  server = await startBucket(path.join(scratch.root, 'bucket'))
  const { client, bucket } = createUploadTarget(server.address)
  await client.send(new PutObjectCommand({ Bucket: bucket, Key: 'blobs/a', Body: data }))
})
afterAll(() => server.stop())
afterEach(() => {
  proxy?.close()
  proxy = undefined
})

/** A bucket behind a proxy whose k-th reply has the k-th trouble; later ones have none. */
async function openBehindProxy(...troubles: Trouble[]) {
  const { origin, pathname } = new URL(server.address.url)
  proxy = await startTroubleProxy(origin, ({ count }) => troubles[count] ?? 'none')
  const patience = { stallMs: 300, tries: 3, pauseMs: 5 }
  const bucket = openBucket({ ...server.address, url: proxy.url + pathname }, patience)
  const range = async (start: number, length: number, signal = new AbortController().signal) => {
    const blocks: Buffer[] = []
    for await (const block of bucket.readRange('blobs/a', start, length, signal)) blocks.push(Buffer.from(block))
    return Buffer.concat(blocks)
  }
  const read = async (signal?: AbortSignal) =>
    (await range(50_000, 200_000, signal)).equals(data.subarray(50_000, 250_000))
  return { bucket, range, read, ranges: () => proxy!.requests.map(({ range }) => range) }
}

test('reads a whole object and a range of it, several on one connection', async () => {
  const { bucket, range, read } = await openBehindProxy()
  expect(Buffer.compare(await bucket.read('blobs/a', 1e6), data)).toBe(0)
  expect(await read()).toBe(true)
  expect(await range(299_990, 10)).toEqual(data.subarray(299_990))
})

test.each<Trouble>([
  { kind: 'cut', bytes: 120_000 },
  { kind: 'short', bytes: 120_000 },
  { kind: 'stall', bytes: 120_000 },
])('resumes after $kind at the first missing byte', async (trouble) => {
  const { read, ranges } = await openBehindProxy(trouble)
  expect(await read()).toBe(true)
  expect(ranges()).toEqual(['bytes=50000-249999', 'bytes=170000-249999'])
})

test('resumes after any number of disconnects that each deliver some bytes', async () => {
  const cut = { kind: 'cut', bytes: 30_000 } as const
  const { read, ranges } = await openBehindProxy(cut, cut, cut, cut, cut, cut)
  expect(await read()).toBe(true)
  expect(ranges()).toHaveLength(7)
})

test.each([429, 500, 503])('repeats a request after status %i, and fails if no data ever arrives', async (status) => {
  const trouble = { kind: 'status', status } as const
  expect(await (await openBehindProxy(trouble, trouble)).read()).toBe(true)
  const broken = await openBehindProxy(trouble, trouble, trouble)
  await expect(broken.read()).rejects.toThrow(`blobs/a cannot be read from ${proxy!.url}/weights: status ${status}`)
})

test.each<[Trouble, RegExp]>([
  [{ kind: 'whole' }, /the reply is the whole object: the server does not serve ranges/],
  [{ kind: 'shifted' }, /the reply is "bytes 9.*" instead of bytes=50000-249999/],
  [{ kind: 'unmarked' }, /the reply is "" instead of bytes=50000-249999/],
  [{ kind: 'status', status: 403 }, /status 403: check the bucket and its keys/],
])('refuses at once what is no range: %j', async (trouble, message) => {
  const { read, ranges } = await openBehindProxy(trouble)
  await expect(read()).rejects.toMatchObject({ name: 'BucketError', message: expect.stringMatching(message) })
  expect(ranges()).toHaveLength(1)
})

test('reports a missing object, an object that is too large, and wrong keys', async () => {
  const { bucket } = await openBehindProxy()
  await expect(bucket.read('blobs/b', 10)).rejects.toMatchObject({ name: 'BucketError', missing: true })
  await expect(bucket.read('blobs/a', 10)).rejects.toThrow('blobs/a exceeds the limit of 10 bytes')
  const stranger = openBucket({ ...server.address, secretAccessKey: 'wrong' })
  await expect(stranger.read('blobs/a', 1e6)).rejects.toThrow('check the bucket and its keys')
})

/** Starts a bucket with `reply` as the handler of all requests. `requests` has the headers of each. */
async function startServing(reply: (outgoing: ServerResponse) => void) {
  const requests: IncomingHttpHeaders[] = []
  const hostile = await serveLocally((incoming, outgoing) => {
    requests.push(incoming.headers)
    reply(outgoing)
  })
  onTestFinished(hostile.stop)
  const url = `${hostile.url}/bucket`
  return { bucket: openBucket({ ...server.address, url }, { stallMs: 5_000, tries: 1 }), requests }
}

test('requests uncompressed objects, and applies the size limit after decompression', async () => {
  const bomb = gzipSync(Buffer.alloc(50e6))
  const { bucket, requests } = await startServing((outgoing) => {
    outgoing.writeHead(200, { 'content-encoding': 'gzip', 'content-length': bomb.length })
    outgoing.end(bomb)
  })
  await expect(bucket.read('manifests/a.json', 1 << 20)).rejects.toMatchObject({
    name: 'BucketError',
    message: 'manifests/a.json exceeds the limit of 1048576 bytes',
  })
  expect(requests.map((headers) => headers['accept-encoding'])).toEqual(['identity'])
})

test('aborts an endless response at the size limit', async () => {
  const closed = Promise.withResolvers<void>()
  const { bucket } = await startServing((outgoing) => {
    outgoing.on('close', closed.resolve)
    const send = () => {
      while (outgoing.write(' '.repeat(65_536)));
      outgoing.once('drain', send)
    }
    send()
  })
  await expect(bucket.read('models/a/fp8/cuda.json', 65_536)).rejects.toThrow('exceeds the limit of 65536 bytes')
  await closed.promise
})

test('stops with the reason of its signal', async () => {
  const { read } = await openBehindProxy({ kind: 'stall', bytes: 10 })
  const abort = new AbortController()
  const reading = read(abort.signal)
  setTimeout(() => abort.abort(new Error('enough')), 50)
  await expect(reading).rejects.toThrow('enough')
})

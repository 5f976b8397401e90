import { randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { PutObjectCommand } from '@aws-sdk/client-s3'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { PackageFile } from '../../../../gpu-fn/weights/download/arriving-file.ts'
import { type Bucket, openBucket } from '../../../../gpu-fn/weights/download/bucket.ts'
import { download } from '../../../../gpu-fn/weights/download/download.ts'
import { sha256 } from '../../../../infra/checkpoints/fake-package.ts'
import { startBucket } from '../../../../infra/local/servers/bucket.ts'
import { createUploadTarget } from '../../../../infra/weights/upload.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()
const objects = [3_000_000, 0, 1, 700_000, 20].map((length) => randomBytes(length))
let server: Awaited<ReturnType<typeof startBucket>>
let bucket: Bucket

beforeAll(async () => {
  server = await startBucket(path.join(scratch.root, 'bucket'))
  bucket = openBucket(server.address)
  const target = createUploadTarget(server.address)
  for (const [k, Body] of objects.entries())
    await target.client.send(new PutObjectCommand({ Bucket: target.bucket, Key: `object-${k}`, Body }))
})
afterAll(() => server.stop())

const listWanted = (directory = scratch.directory): PackageFile[] =>
  objects.map((object, k) => ({
    key: `object-${k}`,
    file: path.join(directory, `file-${k}`),
    bytes: object.length,
    sha256: sha256(object),
  }))

test.each([
  [1, 1e9],
  [1, 400_000],
  [4, 400_000],
  [16, 48_000],
])(
  '%i connections at most, over a window of %i bytes, download every file completely',
  async (connections, spreadBytes) => {
    let told = 0
    await download(bucket, listWanted(), { connections, spreadBytes, onProgress: (bytes) => (told += bytes) })
    expect((await readdir(scratch.directory)).sort()).toEqual(objects.map((_, k) => `file-${k}`))
    for (const [k, object] of objects.entries())
      expect((await readFile(path.join(scratch.directory, `file-${k}`))).equals(object)).toBe(true)
    expect(told).toBe(objects.reduce((sum, { length }) => sum + length, 0))
  },
)

test('a failed download ends after the calls for its files', async () => {
  const failed = Promise.withResolvers<void>()
  let isEnded = false
  const onFile = async ({ key }: PackageFile) => {
    if (key === 'object-2') {
      failed.resolve()
      throw new Error('no link')
    }
    await failed.promise
    await sleep(200)
    isEnded = true
  }
  await expect(download(bucket, listWanted(), { onFile })).rejects.toThrow('no link')
  expect(isEnded).toBe(true)
})

test('a file with another SHA-256 is discarded, without leftovers of incomplete files', async () => {
  const files = listWanted()
  files[3]!.sha256 = sha256(Buffer.from('another'))
  await expect(download(bucket, files, { spreadBytes: 400_000 })).rejects.toMatchObject({
    name: 'CorruptDownload',
    message: `file-3 has the SHA-256 ${sha256(objects[3]!)}`,
  })
  const left = await readdir(scratch.directory)
  expect(left.filter((name) => name === 'file-3' || name.startsWith('.'))).toEqual([])
})

test('reports the error of the disk', async () => {
  const blocked = path.join(scratch.directory, 'blocked')
  await writeFile(blocked, 'a file')
  await expect(download(bucket, listWanted(blocked))).rejects.toThrow(/ENOTDIR|EEXIST/)
})

test('names a missing object, and leaves no files', async () => {
  const directory = path.join(scratch.directory, 'files')
  await mkdir(directory)
  const files = [{ ...listWanted(directory)[0]!, key: 'lost' }]
  await expect(download(bucket, files)).rejects.toThrow(/^lost is not in http/)
  expect(await readdir(directory)).toEqual([])
})

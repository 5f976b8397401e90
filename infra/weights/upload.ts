// Uploads a package to a bucket: blobs by SHA-256, then the manifest, then the pointer that makes it the served one. Repeated uploads send
// only missing objects, and large blobs resume at their next part.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, readFile, rename, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import {
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  GetObjectCommand,
  HeadObjectCommand,
  PutObjectCommand,
  S3Client,
  S3ServiceException,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import * as z from 'zod'
import type { BucketAddress } from '../../gpu-fn/weights/download/bucket.ts'
import {
  blobKeyOf,
  manifestKeyOf,
  type PackageName,
  type Pointer,
  pointer,
  pointerKeyOf,
} from '../../gpu-fn/weights/layout.ts'
import { MANIFEST, openPackage } from '../../gpu-fn/weights/packages.ts'

type UploadOptions = {
  /** Larger objects are uploaded in parts of this size. */
  partBytes?: number
  onProgress?: (doneBytes: number, totalBytes: number) => void
}

type UploadSummary = { package: string; sentBytes: number; presentBytes: number; pointed: boolean }

export type BucketTarget = { client: S3Client; bucket: string }

/** Opens the bucket of an address like `https://host/bucket`. */
export function createUploadTarget({
  url,
  accessKeyId,
  secretAccessKey,
  region = 'auto',
}: BucketAddress): BucketTarget {
  const { origin, pathname } = new URL(url)
  const client = new S3Client({
    endpoint: origin,
    region,
    forcePathStyle: true,
    credentials: { accessKeyId, secretAccessKey },
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  })
  return { client, bucket: pathname.slice(1).replace(/\/$/, '') }
}

/** Throws if the bucket does not exist or the credentials are refused. */
export async function checkAccess({ client, bucket }: BucketTarget): Promise<void> {
  try {
    // Any key will do: the reply "not found" also proves access.
    await client.send(
      new GetObjectCommand({ Bucket: bucket, Key: pointerKeyOf({ model: 'none', tier: 'fp8', target: 'cpu' }) }),
    )
  } catch (error) {
    if (!(error instanceof S3ServiceException))
      throw new Error(`the bucket ${bucket} cannot be reached`, { cause: error })
    if (error.name === 'NoSuchKey') return
    const { httpStatusCode: status } = error.$metadata
    const reason = status === 404 ? 'it does not exist' : 'check OCTET_BUCKET_KEY_ID and OCTET_BUCKET_SECRET'
    throw new Error(`the bucket ${bucket} cannot be used (${status}): ${reason}`, { cause: error })
  }
}

/** Uploads the package at `directory` and points to it. Throws PackageError if its files do not match its manifest. */
export async function uploadPackage(
  target: BucketTarget,
  directory: string,
  options: UploadOptions = {},
): Promise<UploadSummary> {
  const { manifest, digest, directory: root } = await openPackage(directory, { verify: true })
  const blobs = new Map(Object.entries(manifest.files).map(([name, file]) => [file.sha256, { ...file, name }]))
  const total = [...blobs.values()].reduce((sum, { bytes }) => sum + bytes, 0)
  let done = 0
  let sentBytes = 0
  for (const { name, sha256, bytes } of blobs.values()) {
    const before = done
    if ((await sizeOf(target, blobKeyOf(sha256))) !== bytes) {
      const file = path.join(root, name)
      const blob: Blob = { file, sha256, bytes, state: `${root}.${sha256.slice(0, 16)}.upload.json` }
      await uploadBlob(target, blob, options.partBytes ?? 64 << 20, (sent) =>
        options.onProgress?.(before + sent, total),
      )
      sentBytes += bytes
    }
    done += bytes
    options.onProgress?.(done, total)
  }
  const bytes = await readFile(path.join(root, MANIFEST))
  if ((await sizeOf(target, manifestKeyOf(digest))) !== bytes.length) await put(target, manifestKeyOf(digest), bytes)
  const pointed = await setPointer(target, manifest, digest)
  return { package: digest, sentBytes, presentBytes: total - sentBytes, pointed }
}

/** Makes `name` point to a package in the bucket. Returns false if it already did. */
export async function setPointer(target: BucketTarget, name: PackageName, digest: string): Promise<boolean> {
  const current = await readPointer(target, name)
  if (current?.package === digest) return false
  const before = current ? [current.package, ...current.previous] : []
  const previous = before.filter((each) => each !== digest).slice(0, 20)
  await put(target, pointerKeyOf(name), JSON.stringify({ package: digest, previous } satisfies Pointer))
  return true
}

/** Makes `name` point to its previous package. Throws if there is none. */
export async function rollBack(target: BucketTarget, name: PackageName): Promise<string> {
  const last = (await readPointer(target, name))?.previous[0]
  if (last === undefined)
    throw new Error(`the bucket has no previous package of ${name.model}:${name.tier} for ${name.target}`)
  await setPointer(target, name, last)
  return last
}

async function readPointer({ client, bucket }: BucketTarget, name: PackageName): Promise<Pointer | null> {
  try {
    const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: pointerKeyOf(name) }))
    return pointer.parse(JSON.parse((await Body?.transformToString()) ?? ''))
  } catch (error) {
    if (isMissing(error)) return null
    throw error
  }
}

const isMissing = (error: unknown) => error instanceof S3ServiceException && error.$metadata.httpStatusCode === 404

async function sizeOf({ client, bucket }: BucketTarget, key: string): Promise<number | null> {
  try {
    const { ContentLength } = await client.send(new HeadObjectCommand({ Bucket: bucket, Key: key }))
    return ContentLength ?? null
  } catch (error) {
    if (isMissing(error)) return null
    throw error
  }
}

async function put({ client, bucket }: BucketTarget, key: string, body: Uint8Array | string): Promise<void> {
  const ContentMD5 = md5(body)
  await client.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: body, ContentMD5 }))
}

const md5 = (data: Uint8Array | string) => createHash('md5').update(data).digest('base64')

type Blob = { file: string; sha256: string; bytes: number; state: string }

/** The state of an incomplete multipart upload, stored next to the package because a bucket need not list its parts. */
const uploadState = z.object({ key: z.string(), upload: z.string(), partBytes: z.int(), parts: z.array(z.string()) })

async function uploadBlob(
  target: BucketTarget,
  blob: Blob,
  partBytes: number,
  progress: (sent: number) => void,
): Promise<void> {
  const { file, sha256, bytes } = blob
  if (bytes <= partBytes) {
    const hash = createHash('md5')
    for await (const chunk of createReadStream(file)) hash.update(chunk)
    const body = { Body: createReadStream(file), ContentLength: bytes, ContentMD5: hash.digest('base64') }
    await target.client.send(new PutObjectCommand({ Bucket: target.bucket, Key: blobKeyOf(sha256), ...body }))
    return
  }
  try {
    await uploadParts(target, blob, partBytes, progress)
  } catch (error) {
    if (!(error instanceof S3ServiceException) || error.name !== 'NoSuchUpload') throw error
    // The bucket has discarded the upload, as R2 does after a week.
    await rm(blob.state, { force: true })
    await uploadParts(target, blob, partBytes, progress)
  }
}

async function uploadParts(
  target: BucketTarget,
  blob: Blob,
  partBytes: number,
  progress: (sent: number) => void,
): Promise<void> {
  const { client } = target
  const object = { Bucket: target.bucket, Key: blobKeyOf(blob.sha256) }
  const size = Math.max(partBytes, Math.ceil(blob.bytes / 10_000))
  const saved = uploadState.safeParse(await readFile(blob.state, 'utf8').then(JSON.parse, () => null)).data
  const state = saved?.partBytes === size && saved.key === `${object.Bucket}/${object.Key}` ? saved : await begin()
  await using input = await open(blob.file)
  const buffer = Buffer.alloc(size)
  for (let start = state.parts.length * size; start < blob.bytes; start += size) {
    const { bytesRead } = await input.read(buffer, 0, Math.min(size, blob.bytes - start), start)
    const body = { Body: buffer.subarray(0, bytesRead), ContentMD5: md5(buffer.subarray(0, bytesRead)) }
    const part = { ...object, UploadId: state.upload, PartNumber: state.parts.length + 1, ...body }
    state.parts.push((await client.send(new UploadPartCommand(part))).ETag!)
    await save()
    progress(Math.min(start + size, blob.bytes))
  }
  const Parts = state.parts.map((ETag, k) => ({ ETag, PartNumber: k + 1 }))
  await client.send(
    new CompleteMultipartUploadCommand({ ...object, UploadId: state.upload, MultipartUpload: { Parts } }),
  )
  await rm(blob.state, { force: true })

  async function begin(): Promise<z.infer<typeof uploadState>> {
    const { UploadId } = await client.send(new CreateMultipartUploadCommand(object))
    return { key: `${object.Bucket}/${object.Key}`, upload: UploadId!, partBytes: size, parts: [] }
  }
  async function save(): Promise<void> {
    await writeFile(`${blob.state}.new`, JSON.stringify(state))
    await rename(`${blob.state}.new`, blob.state)
  }
}

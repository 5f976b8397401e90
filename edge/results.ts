// Finished images in R2: where they lie, how they are written once, and the links that open them.
import type { JobEvent } from '#contract'
import type { Env } from './env.ts'
import type { JobRecord, StoredImage } from './job-record.ts'
import { signLink } from './keys.ts'

const EXTENSIONS = { 'image/png': 'png', 'image/jpeg': 'jpg', 'image/webp': 'webp' } as const
export const LINK_SECONDS = 3600

type ImageEvent = Extract<JobEvent, { type: 'image' }>
type Owner = Pick<JobRecord, 'account' | 'id'>

/**
 * Writes an image to `results/<account>/<job>/<k>.<ext>` unless it is there already. An earlier attempt may have written it: then
 * that file stands, and its size and digest are what the job tells.
 */
export async function storeImage(
  bucket: R2Bucket,
  owner: Owner,
  event: ImageEvent,
  data: Uint8Array<ArrayBuffer>,
): Promise<StoredImage> {
  const { image, seed, width, height, content_type, sha256 } = event
  const key = `results/${owner.account}/${owner.id}/${image}.${EXTENSIONS[content_type]}`
  const facts = { image, seed, width, height, content_type, key }
  const written = await bucket.put(key, data, {
    onlyIf: { etagDoesNotMatch: '*' },
    httpMetadata: { contentType: content_type },
    customMetadata: { sha256, seed: String(seed) },
    sha256,
  })
  const stored = written ?? (await bucket.head(key))
  if (!stored) throw new Error(`${key} was neither written nor found`)
  return { ...facts, bytes: stored.size, sha256: stored.customMetadata?.sha256 ?? sha256 }
}

/** The path of an image on this worker, without a signature. */
export const resultPath = (job: string, { key }: Pick<StoredImage, 'key'>) =>
  `/v1/results/${job}/${key.slice(key.lastIndexOf('/') + 1)}`

/** A link that opens an image without a key until it expires. */
export async function resultUrl(
  env: Env,
  origin: string,
  job: string,
  image: Pick<StoredImage, 'key'>,
): Promise<string> {
  const path = resultPath(job, image)
  const expires = Math.floor(Date.now() / 1000) + LINK_SECONDS
  return `${origin}${path}?${await signLink(env.KEY_PEPPER, path, expires)}`
}

/** The bytes of an image that a job says it stored. */
export async function readImage(bucket: R2Bucket, { key }: StoredImage): Promise<Uint8Array<ArrayBuffer>> {
  const object = await bucket.get(key)
  if (!object) throw new Error(`${key} is gone`)
  return new Uint8Array(await object.arrayBuffer())
}

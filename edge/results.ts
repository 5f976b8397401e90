// Finished images in R2: where they lie and how long, how they are written once, and the links that open them.
import type { JobEvent } from '#contract'
import type { Env } from './env.ts'
import { ApiError } from './errors.ts'
import type { JobRecord, StoredImage } from './job-record.ts'
import { signLink } from './links.ts'
import { resultPrefix } from './retention.ts'

const EXTENSIONS = { 'image/png': 'png', 'image/jpeg': 'jpg', 'image/webp': 'webp' } as const
export const LINK_SECONDS = 3600

type ImageEvent = Extract<JobEvent, { type: 'image' }>
type Owner = Pick<JobRecord, 'account' | 'id' | 'retentionDays' | 'ran'>

/**
 * Writes an image to `results/<days>d/<account>/<job>/<k>.<ext>` unless that file exists. An earlier attempt may have written it: then its
 * file stands, and the job reports that file's size, digest, package and device.
 */
export async function storeImage(
  env: Pick<Env, 'RESULTS'>,
  { id, account, retentionDays, ran }: Owner,
  event: ImageEvent,
  data: Uint8Array<ArrayBuffer>,
): Promise<StoredImage> {
  const { image, seed, width, height, content_type, sha256 } = event
  if (!ran) throw new Error(`an image of ${id} arrived before the job started`)
  const key = `${resultPrefix(retentionDays, account)}${id}/${image}.${EXTENSIONS[content_type]}`
  const written = await env.RESULTS.put(key, data, {
    onlyIf: { etagDoesNotMatch: '*' },
    httpMetadata: { contentType: content_type },
    customMetadata: { sha256, seed: String(seed), ...ran },
    sha256,
  })
  const stored = written ?? (await env.RESULTS.head(key))
  if (!stored) throw new Error(`${key} was neither written nor found`)
  const expires_at = Math.floor(stored.uploaded.getTime() / 1000) + retentionDays * 24 * 3600
  const facts = { image, seed, width, height, content_type, key, expires_at }
  const made = stored.customMetadata
  return {
    ...{ ...facts, bytes: stored.size, sha256: made?.sha256 ?? sha256 },
    ...{ package: made?.package ?? ran.package, device: made?.device ?? ran.device },
  }
}

/** Whether an image may still be read: its owner has not deleted it, and its time is not over. */
export const isKept = ({ deleted, expires_at }: Pick<StoredImage, 'deleted' | 'expires_at'>) =>
  !deleted && Date.now() / 1000 < expires_at

/** Whether the files of all images can still be read. */
export async function areStored({ RESULTS }: Pick<Env, 'RESULTS'>, images: readonly StoredImage[]): Promise<boolean> {
  if (!images.every(isKept)) return false
  const files = await Promise.all(images.map(({ key }) => RESULTS.head(key)))
  return !files.includes(null)
}

/** The path of an image on this worker, without a signature. */
export const resultPath = (job: string, { key }: Pick<StoredImage, 'key'>) =>
  `/v1/results/${job}/${key.slice(key.lastIndexOf('/') + 1)}`

/**
 * A link that opens an image without a key, for `seconds` or until the image expires; null when it is no longer kept. It ends with the
 * key `asking`, the id of the key that asks for it, or with the job's own key when that is left out.
 */
export async function resultUrl(
  env: Pick<Env, 'KEY_PEPPER'>,
  origin: string,
  job: string,
  image: Pick<StoredImage, 'key' | 'deleted' | 'expires_at'>,
  seconds = LINK_SECONDS,
  asking: string | null = null,
): Promise<string | null> {
  if (!isKept(image)) return null
  const expires = Math.min(Math.floor(Date.now() / 1000) + seconds, image.expires_at)
  const link = await signLink(env.KEY_PEPPER, { path: resultPath(job, image), expires, key: asking })
  return `${origin}${link}`
}

/** An image that a job says it stored. Errors: not_found when it was deleted since. */
export async function openImage(bucket: R2Bucket, image: StoredImage): Promise<R2ObjectBody> {
  const object = isKept(image) ? await bucket.get(image.key) : null
  if (!object) throw new ApiError('not_found', 'This image was deleted.')
  return object
}

/** Deletes up to a thousand files under a prefix. False when there may be more. */
export async function deletePrefix(bucket: R2Bucket, prefix: string): Promise<boolean> {
  const { objects, truncated } = await bucket.list({ prefix })
  if (objects.length > 0) await bucket.delete(objects.map(({ key }) => key))
  return !truncated
}

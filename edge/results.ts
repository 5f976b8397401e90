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
type Owner = Pick<JobRecord, 'account' | 'id'>

/**
 * Writes an image to `results/<days>d/<account>/<job>/<k>.<ext>` unless it is there already. An earlier attempt may have written it:
 * then that file stands, and its size and digest are what the job tells.
 */
export async function storeImage(
  env: Pick<Env, 'RESULTS' | 'ACCOUNT'>,
  owner: Owner,
  event: ImageEvent,
  data: Uint8Array<ArrayBuffer>,
): Promise<StoredImage> {
  const { image, seed, width, height, content_type, sha256 } = event
  const { settings } = await env.ACCOUNT.getByName(owner.account).view()
  const key = `${resultPrefix(settings.retention_days, owner.account)}${owner.id}/${image}.${EXTENSIONS[content_type]}`
  const written = await env.RESULTS.put(key, data, {
    onlyIf: { etagDoesNotMatch: '*' },
    httpMetadata: { contentType: content_type },
    customMetadata: { sha256, seed: String(seed) },
    sha256,
  })
  const stored = written ?? (await env.RESULTS.head(key))
  if (!stored) throw new Error(`${key} was neither written nor found`)
  const expires_at = Math.floor(stored.uploaded.getTime() / 1000) + settings.retention_days * 24 * 3600
  const facts = { image, seed, width, height, content_type, key, expires_at }
  return { ...facts, bytes: stored.size, sha256: stored.customMetadata?.sha256 ?? sha256 }
}

/** Whether an image may still be read: its owner has not deleted it, and its time is not over. */
export const isKept = ({ deleted, expires_at }: Pick<StoredImage, 'deleted' | 'expires_at'>) =>
  !deleted && Date.now() / 1000 < expires_at

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

/** Deletes images of a final job for good. The job tells so first: a link that still opens is never shown beside a deleted file. */
export async function deleteImages(env: Env, { id }: JobRecord, images: readonly StoredImage[]): Promise<void> {
  const keys = images.map(({ key }) => key)
  await env.JOB.getByName(id).forgetImages(keys)
  await env.RESULTS.delete(keys)
}

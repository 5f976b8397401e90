// Finished images in R2: storage paths, retention, write-once uploads, and signed links.

import type { JobEvent } from '#contract'
import { signLink } from '../auth/links.ts'
import { configOf } from '../config.ts'
import { ApiError } from '../http/errors.ts'
import { type RetentionDays, resultPrefixOf } from './retention.ts'
import type { RunFacts, StoredImage } from './stored-image.ts'

const EXTENSIONS = { 'image/png': 'png', 'image/jpeg': 'jpg', 'image/webp': 'webp' } as const
export const LINK_SECONDS = 3600

type ImageEvent = Extract<JobEvent, { type: 'image' }>
type Owner = {
  id: string
  account: string
  retentionDays: RetentionDays
  ran: RunFacts | null
}

/**
 * Writes an image to `results/<days>d/<account>/<job>/<k>.<ext>` unless the file exists. If an earlier attempt wrote it, that file is kept,
 * and the job reports that file's size, digest, package and device.
 */
export async function storeImage(
  env: Pick<Env, 'RESULTS'>,
  { id, account, retentionDays, ran }: Owner,
  event: ImageEvent,
  data: Uint8Array<ArrayBuffer>,
): Promise<StoredImage> {
  const { image, seed, width, height, content_type, sha256 } = event
  if (!ran) throw new Error(`an image of ${id} arrived before the job started`)
  const key = `${resultPrefixOf(retentionDays, account)}${id}/${image}.${EXTENSIONS[content_type]}`
  const written = await env.RESULTS.put(key, data, {
    onlyIf: { etagDoesNotMatch: '*' },
    httpMetadata: { contentType: content_type },
    customMetadata: { sha256, seed: String(seed), ...toMetadata(ran) },
    sha256,
  })
  const stored = written ?? (await env.RESULTS.head(key))
  if (!stored) throw new Error(`${key} was neither written nor found`)
  const expires_at = Math.floor(stored.uploaded.getTime() / 1000) + retentionDays * 24 * 3600
  const facts = { image, seed, width, height, content_type, key, expires_at }
  const metadata = stored.customMetadata
  return {
    ...{ ...facts, bytes: stored.size, sha256: metadata?.sha256 ?? sha256 },
    ...parseRunFacts(metadata, ran),
  }
}

/** Metadata of R2 is text. */
const toMetadata = ({ loras, controls, ...facts }: RunFacts): Record<string, string> => ({
  ...facts,
  ...(loras && { loras: JSON.stringify(loras) }),
  ...(controls && { controls: JSON.stringify(controls) }),
})

/** The facts in a file's metadata about its run; `ran` without them. */
function parseRunFacts(metadata: Record<string, string> | undefined, ran: RunFacts): RunFacts {
  if (!metadata?.package || !metadata.device) return ran
  const { package: digest, device, loras, controls } = metadata
  return {
    ...{ package: digest, device },
    ...(loras && { loras: JSON.parse(loras) as RunFacts['loras'] & {} }),
    ...(controls && { controls: JSON.parse(controls) as RunFacts['controls'] & {} }),
  }
}

/** Whether an image is still available: it was not deleted and has not expired. */
export const isAvailable = ({ deleted, expires_at }: Pick<StoredImage, 'deleted' | 'expires_at'>) =>
  !deleted && Date.now() / 1000 < expires_at

/** Whether the files of all images are still available. */
export async function areStored({ RESULTS }: Pick<Env, 'RESULTS'>, images: readonly StoredImage[]): Promise<boolean> {
  if (!images.every(isAvailable)) return false
  const files = await Promise.all(images.map(({ key }) => RESULTS.head(key)))
  return !files.includes(null)
}

/** Returns the unsigned path of an image on this worker. */
export const resultPathOf = (job: string, { key }: Pick<StoredImage, 'key'>) =>
  `/v1/results/${job}/${key.slice(key.lastIndexOf('/') + 1)}`

/**
 * Returns a signed link to an image, valid for `seconds` or until the image expires, or null if the image is no longer available. The link
 * is revoked with the key `requester`, the id of the requesting key, or with the job's own key by default.
 */
export async function createResultUrl(
  env: Env,
  origin: string,
  job: string,
  image: Pick<StoredImage, 'key' | 'deleted' | 'expires_at'>,
  seconds = LINK_SECONDS,
  requester: string | null = null,
): Promise<string | null> {
  return createResultUrlUntil(env, origin, job, image, Math.floor(Date.now() / 1000) + seconds, requester)
}

/** The same, with a link that is valid until `until` (Unix seconds) or until the image expires. */
export async function createResultUrlUntil(
  env: Env,
  origin: string,
  job: string,
  image: Pick<StoredImage, 'key' | 'deleted' | 'expires_at'>,
  until: number,
  requester: string | null = null,
): Promise<string | null> {
  if (!isAvailable(image)) return null
  const expires = Math.min(until, image.expires_at)
  const link = await signLink(configOf(env).peppers, { path: resultPathOf(job, image), expires, key: requester })
  return `${origin}${link}`
}

/** Opens a stored image. Errors: not_found if it was deleted. */
export async function openImage(bucket: R2Bucket, image: StoredImage): Promise<R2ObjectBody> {
  const object = isAvailable(image) ? await bucket.get(image.key) : null
  if (!object) throw new ApiError('not_found', 'This image was deleted.')
  return object
}

/** Deletes up to a thousand files under a prefix. Returns false if there may be more. */
export async function deletePrefix(bucket: R2Bucket, prefix: string): Promise<boolean> {
  const { objects, truncated } = await bucket.list({ prefix })
  if (objects.length > 0) await bucket.delete(objects.map(({ key }) => key))
  return !truncated
}

import { type Context, Hono } from 'hono'
import type { Credential } from '../auth/keys.ts'
import { areLinksValid, createLinkRevokedError } from '../auth/links.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { matchesEtag, parseRange } from '../http/ranges.ts'
import { formatValue } from '../http/validation.ts'
import { JOB_ID } from '../jobs/job-id.ts'
import { isOwner } from '../jobs/ownership.ts'
import { isFinal } from '../jobs/record.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { findOwnJob } from '../requests/own-job.ts'
import { isAvailable, resultPathOf } from '../results/results.ts'
import type { StoredImage } from '../results/stored-image.ts'

const createNotFoundError = (job: string, file: string) =>
  new ApiError('not_found', `There is no image ${file} of job ${job}.`)

/** Finds an image, available or not, and its job. A null credential means access by signed link. Errors: not_found. */
async function findRecord(c: Context<EdgeEnv>, job: string, file: string, credential: Credential | null) {
  const record = JOB_ID.test(job) ? await objectOf(c.env.JOB, job).view() : null
  const isReadable = record && (credential === null || isOwner(credential, record))
  const image = isReadable ? record.images.find((each) => resultPathOf(job, each).endsWith(`/${file}`)) : undefined
  if (!image || record?.state !== 'succeeded') throw createNotFoundError(job, file)
  return { record, image }
}

/** The same for an available image. */
async function findImage(c: Context<EdgeEnv>, job: string, file: string, credential: Credential | null) {
  const { record, image } = await findRecord(c, job, file, credential)
  if (image.deleted) throw new ApiError('not_found', 'This image was deleted.')
  if (!isAvailable(image)) throw new ApiError('not_found', 'This image has expired.')
  return { record, image }
}

function headersOf(
  job: string,
  file: string,
  { sha256, content_type, bytes }: StoredImage,
  maxAge: number,
): Record<string, string> {
  return {
    'content-type': content_type,
    'content-length': String(bytes),
    'content-disposition': `inline; filename="octet-${job}-${file}"`,
    'accept-ranges': 'bytes',
    'cache-control': `private, max-age=${maxAge}, immutable`,
    etag: `"${sha256}"`,
  }
}

async function send(c: Context<EdgeEnv>, image: StoredImage, headers: Record<string, string>): Promise<Response> {
  const { 'content-length': _, ...cached } = headers
  if (matchesEtag(c.req.header('if-none-match'), headers.etag!)) return c.body(null, 304, cached)
  if (c.req.method === 'HEAD') return c.body(null, 200, headers)
  const whole = c.req.header('if-range') !== undefined && c.req.header('if-range') !== headers.etag
  const range = whole ? null : parseRange(c.req.header('range'), image.bytes)
  if (range === 'unsatisfiable') {
    const message = `The range ${formatValue(c.req.header('range'))} is outside the file of ${image.bytes} bytes.`
    throw new ApiError('range_not_satisfiable', message, { headers: { 'content-range': `bytes */${image.bytes}` } })
  }
  const object = await c.env.RESULTS.get(image.key, range ? { range } : {})
  if (!object) throw new ApiError('not_found', 'This image was deleted.')
  if (!range) return c.body(object.body, 200, headers)
  const { offset, length } = range
  const partial = {
    'content-length': String(length),
    'content-range': `bytes ${offset}-${offset + length - 1}/${image.bytes}`,
  }
  return c.body(object.body, 206, { ...headers, ...partial })
}

const OWNER_SECONDS = 24 * 3600
const secondsLeft = ({ expires_at }: StoredImage) => Math.max(0, expires_at - Math.floor(Date.now() / 1000))

/** Returns the image of a signed link. Errors: not_found; link_revoked if the link's key is no longer active. */
async function findLinked(c: Context<EdgeEnv>, job: string, file: string, key: string | null): Promise<StoredImage> {
  const { record, image } = await findImage(c, job, file, null)
  if (await areLinksValid(c.env, record.account, key ?? record.keyId)) return image
  throw createLinkRevokedError()
}

/** Image files, by signed link or with a key of the account. Supports range requests, conditional requests and HEAD. */
export const results = new Hono<EdgeEnv>()
  .get('/:job/:file', async (c) => {
    const { job, file } = c.req.param()
    const link = c.get('link')
    const image = link
      ? await findLinked(c, job, file, link.key)
      : (await findImage(c, job, file, c.get('credential'))).image
    const maxAge = Math.min(link?.seconds ?? OWNER_SECONDS, secondsLeft(image))
    return send(c, image, headersOf(job, file, image, maxAge))
  })
  .delete('/:job/:file', async (c) => {
    const { job, file } = c.req.param()
    const { record, image } = await findRecord(c, job, file, c.get('credential'))
    // The file of a deleted image exists if its deletion failed.
    if (!isAvailable(image) && !(await c.env.RESULTS.head(image.key))) throw createNotFoundError(job, file)
    await objectOf(c.env.JOB, record.id).eraseImages([image.image])
    return c.body(null, 204)
  })

/** DELETE /v1/jobs/{id}/images: deletes all images of a finished job. Idempotent. */
export const jobImages = new Hono<EdgeEnv>().delete('/:id/images', async (c) => {
  const job = await findOwnJob(c, 'generate')
  if (!isFinal(job))
    throw new ApiError('not_found', `The job ${job.id} has not ended, so its images cannot be deleted yet.`)
  await objectOf(c.env.JOB, job.id).eraseImages(null)
  return c.body(null, 204)
})

import { type Context, Hono } from 'hono'
import { bearer, keyRequired, owner } from '../auth.ts'
import type { EdgeEnv } from '../env.ts'
import { ApiError } from '../errors.ts'
import { matches, parseRange } from '../http-range.ts'
import { isFinal, JOB_ID, type StoredImage } from '../job-record.ts'
import { checkLink } from '../keys.ts'
import { objectOf } from '../objects.ts'
import { ownJob } from '../own-job.ts'
import { isKept, resultPath } from '../results.ts'

/** Opens a signed link: seconds it still holds. Errors: link_invalid, link_expired. */
async function openLink(c: Context<EdgeEnv>, expires: string, signature: string): Promise<number> {
  const genuine =
    /^\d{1,12}$/.test(expires) && (await checkLink(c.env.KEY_PEPPER, c.req.path, Number(expires), signature))
  if (!genuine)
    throw new ApiError(
      'link_invalid',
      'The signature does not fit this address. Ask for the job again to get a new link.',
    )
  const left = Number(expires) - Math.floor(Date.now() / 1000)
  if (left <= 0) throw new ApiError('link_expired', 'This link has expired. Ask for the job again to get a new one.')
  return left
}

const absent = (job: string, file: string) => new ApiError('not_found', `There is no image ${file} of job ${job}.`)

/** An image that is still kept, with its job. `account` null is whoever holds a link. Errors: not_found. */
async function findImage(c: Context<EdgeEnv>, job: string, file: string, account: string | null) {
  const record = JOB_ID.test(job) ? await objectOf(c.env.JOB, job).view() : null
  const mine = record && (account === null || record.account === account)
  const image = mine ? record.images.find((each) => resultPath(job, each).endsWith(`/${file}`)) : undefined
  if (!image || record?.state !== 'succeeded') throw absent(job, file)
  if (image.deleted) throw new ApiError('not_found', 'This image was deleted.')
  if (!isKept(image)) throw new ApiError('not_found', 'This image has expired.')
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
    'x-content-type-options': 'nosniff',
  }
}

async function send(c: Context<EdgeEnv>, image: StoredImage, headers: Record<string, string>): Promise<Response> {
  const { 'content-length': _, ...cached } = headers
  if (matches(c.req.header('if-none-match'), headers.etag!)) return c.body(null, 304, cached)
  if (c.req.method === 'HEAD') return c.body(null, 200, headers)
  const whole = c.req.header('if-range') !== undefined && c.req.header('if-range') !== headers.etag
  const range = whole ? null : parseRange(c.req.header('range'), image.bytes)
  if (range === 'unsatisfiable') {
    const message = `The range ${c.req.header('range')} lies outside the file of ${image.bytes} bytes.`
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

/** An image: for whoever holds a signed link, or for the owner's key. Ranges, conditional requests and HEAD work as HTTP says. */
export const results = new Hono<EdgeEnv>()
  .get('/:job/:file', async (c) => {
    const { job, file } = c.req.param()
    const { exp, sig } = c.req.query()
    const linked = exp !== undefined && sig !== undefined && bearer(c) === null
    if (!linked) await keyRequired(c, async () => {})
    const maxAge = linked ? await openLink(c, exp, sig) : OWNER_SECONDS
    const { image } = await findImage(c, job, file, linked ? null : (await owner(c)).account)
    return send(c, image, headersOf(job, file, image, Math.min(maxAge, secondsLeft(image))))
  })
  .delete('/:job/:file', keyRequired, async (c) => {
    const { job, file } = c.req.param()
    const { account } = await owner(c, 'generate')
    const { record, image } = await findImage(c, job, file, account)
    await objectOf(c.env.JOB, record.id).deleteImages([image.key])
    return c.body(null, 204)
  })

/** DELETE /v1/jobs/{id}/images: all images of a finished job. What is deleted already stays so. */
export const jobImages = new Hono<EdgeEnv>().delete('/:id/images', keyRequired, async (c) => {
  const job = await ownJob(c, 'generate')
  if (!isFinal(job)) throw new ApiError('not_found', `The job ${job.id} has no images before it has ended.`)
  await objectOf(c.env.JOB, job.id).deleteImages(job.images.map(({ key }) => key))
  return c.body(null, 204)
})

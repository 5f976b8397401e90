import { Hono } from 'hono'
import type { JobSpec } from '../accounts/job-spec.ts'
import { rateHeaders } from '../accounts/limits.ts'
import { streamJson } from '../http/base64-response.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { generateNow, type Submitted } from '../jobs/generate.ts'
import { decisionOf, warningsOf } from '../jobs/record.ts'
import { readSubmission, watchCaller } from '../jobs/submission.ts'
import { serverTiming } from '../jobs/view.ts'
import { openImage, resultUrl, type StoredImage } from '../results/results.ts'

/** Returns an image of the response: its file as `url` or `b64_json`, and its metadata. */
const describeImage = (
  { seed, content_type, sha256 }: StoredImage,
  file: { url: string | null } | { b64_json: string },
) => ({
  ...file,
  seed,
  content_type,
  sha256,
})

/** Returns the response in OpenAI's format, with additional fields under `octet`. */
function replyOf({ job, reused }: Submitted, data: unknown[]) {
  const { width, height, output_format } = job.request
  return {
    created: Math.floor(job.created / 1000),
    data,
    output_format,
    size: `${width}x${height}`,
    octet: {
      job: job.id,
      ...decisionOf(job),
      attempts: job.attempt,
      timings: job.timings,
      warnings: warningsOf(job),
      price_microdollars: reused ? 0 : job.price,
      reused,
    },
  }
}

/** Returns the response with links that are revoked with the key `requester`. */
async function linkedReply(env: Env, origin: string, submitted: Submitted, images: StoredImage[], requester: string) {
  const { id, keyId } = submitted.job
  const urls = images.map((image) =>
    resultUrl(env, origin, id, image, undefined, requester === keyId ? null : requester),
  )
  const data = await Promise.all(urls)
  return replyOf(
    submitted,
    data.map((url, i) => describeImage(images[i]!, { url })),
  )
}

/** Streams the response with inline files. The first file is opened before the response starts, so that a deleted image is an error. */
async function base64Reply({ RESULTS }: Env, submitted: Submitted, images: StoredImage[]): Promise<ReadableStream> {
  const first = await openImage(RESULTS, images[0]!)
  const open = async (index: number) => (index === 0 ? first : await openImage(RESULTS, images[index]!)).body
  const bodyWith = (placeholder: string) =>
    replyOf(
      submitted,
      images.map((image) => describeImage(image, { b64_json: placeholder })),
    )
  return streamJson(bodyWith, open)
}

/** The total for all images. Clients read the response into one string, which is limited to about 512 MB in JavaScript. */
const BASE64_PIXELS = 100_000_000

function checkBase64Size({ request: { width, height, count } }: JobSpec): void {
  const pixels = width * height * count
  if (pixels <= BASE64_PIXELS) return
  const megapixels = (pixels / 1_000_000).toFixed(1)
  const message = `response_format is "b64_json", but ${count} images of ${width}x${height} are ${megapixels} megapixels; the limit for b64_json is ${BASE64_PIXELS / 1_000_000} in total. Use response_format "url".`
  throw new ApiError('invalid_request', message, { param: 'response_format' })
}

/** Synchronous generation: POST /v1/images/generations, compatible with OpenAI. */
export const images = new Hono<EdgeEnv>().post('/generations', async (c) => {
  const { fields, submission } = await readSubmission(c)
  if (fields.response_format === 'b64_json') checkBase64Size(submission.spec)
  const caller = watchCaller(c, fields)
  const submitted = await generateNow(c.env, submission, caller).finally(caller.done)
  const { job, rates } = submitted
  const sorted = job.images.toSorted((a, b) => a.image - b.image)
  const headers = { 'x-octet-job': job.id, ...serverTiming(job), ...rateHeaders(rates) }
  if (fields.response_format === 'b64_json')
    return c.body(await base64Reply(c.env, submitted, sorted), 200, { ...headers, 'content-type': 'application/json' })
  const { origin } = new URL(c.req.url)
  return c.json(await linkedReply(c.env, origin, submitted, sorted, c.get('credential').keyId), 200, headers)
})

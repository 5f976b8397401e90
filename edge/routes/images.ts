import { Hono } from 'hono'
import { keyRequired } from '../auth.ts'
import type { EdgeEnv, Env } from '../env.ts'
import { ApiError } from '../errors.ts'
import { generateNow, type Submitted } from '../generate.ts'
import type { Generation } from '../generation-request.ts'
import { decisionOf, type JobSpec, warningsOf } from '../job-record.ts'
import { serverTiming } from '../job-view.ts'
import { rateHeaders } from '../limits.ts'
import { readImage, resultUrl } from '../results.ts'
import { bodyLimited, readSubmission, watchCaller } from '../submission.ts'

/** The reply that the `openai` client reads, with what it has no field for under `octet`. */
async function reply(env: Env, origin: string, { job, reused }: Submitted, format: Generation['response_format']) {
  const { width, height, output_format } = job.request
  const images = job.images.toSorted((a, b) => a.image - b.image)
  const data = images.map(async (image) => ({
    ...(format === 'url'
      ? { url: await resultUrl(env, origin, job.id, image) }
      : { b64_json: (await readImage(env.RESULTS, image)).toBase64() }),
    seed: image.seed,
    content_type: image.content_type,
    sha256: image.sha256,
  }))
  return {
    created: Math.floor(job.created / 1000),
    data: await Promise.all(data),
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

/** The worker has 128 MB, and base64 holds an image's bytes three times over: as they are, as text and as the reply's text. */
const BASE64_PIXELS = 12_000_000

function refuseTooMuchBase64({ request: { width, height, count } }: JobSpec): void {
  const pixels = width * height * count
  if (pixels <= BASE64_PIXELS) return
  const megapixels = (pixels / 1_000_000).toFixed(1)
  const message = `response_format is "b64_json", but ${count} images of ${width}x${height} are ${megapixels} megapixels; b64_json takes at most ${BASE64_PIXELS / 1_000_000} in all. Use response_format "url".`
  throw new ApiError('invalid_request', message, { param: 'response_format' })
}

/** An image while the caller waits: POST /v1/images/generations, as OpenAI has it. */
export const images = new Hono<EdgeEnv>().post('/generations', keyRequired, bodyLimited, async (c) => {
  const { fields, submission } = await readSubmission(c)
  if (fields.response_format === 'b64_json') refuseTooMuchBase64(submission.spec)
  const caller = watchCaller(c, fields)
  const submitted = await generateNow(c.env, submission, caller).finally(caller.done)
  const body = await reply(c.env, new URL(c.req.url).origin, submitted, fields.response_format)
  const { job, rates } = submitted
  const headers = { 'x-octet-job': job.id, 'cache-control': 'no-store', ...serverTiming(job), ...rateHeaders(rates) }
  return c.json(body, 200, headers)
})

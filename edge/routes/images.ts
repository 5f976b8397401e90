import { Hono } from 'hono'
import { streamJson } from '../base64-reply.ts'
import type { EdgeEnv, Env } from '../env.ts'
import { ApiError } from '../errors.ts'
import { generateNow, type Submitted } from '../generate.ts'
import { decisionOf, type JobSpec, type StoredImage, warningsOf } from '../job-record.ts'
import { serverTiming } from '../job-view.ts'
import { rateHeaders } from '../limits.ts'
import { openImage, resultUrl } from '../results.ts'
import { readSubmission, watchCaller } from '../submission.ts'

/** An image of the reply: its file as `url` or `b64_json`, and what describes it. */
const describeImage = (
  { seed, content_type, sha256 }: StoredImage,
  file: { url: string | null } | { b64_json: string },
) => ({
  ...file,
  seed,
  content_type,
  sha256,
})

/** The reply that the `openai` client reads, with what it has no field for under `octet`. */
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

/** The reply with links that end with the key `asking`. */
async function linkedReply(env: Env, origin: string, submitted: Submitted, images: StoredImage[], asking: string) {
  const { id, keyId } = submitted.job
  const urls = images.map((image) => resultUrl(env, origin, id, image, undefined, asking === keyId ? null : asking))
  const data = await Promise.all(urls)
  return replyOf(
    submitted,
    data.map((url, i) => describeImage(images[i]!, { url })),
  )
}

/** The reply with the files themselves. The first is opened before the reply begins, so that deleted images are an error. */
async function base64Reply({ RESULTS }: Env, submitted: Submitted, images: StoredImage[]): Promise<ReadableStream> {
  const first = await openImage(RESULTS, images[0]!)
  const open = async (index: number) => (index === 0 ? first : await openImage(RESULTS, images[index]!)).body
  const bodyWith = (mark: string) =>
    replyOf(
      submitted,
      images.map((image) => describeImage(image, { b64_json: mark })),
    )
  return streamJson(bodyWith, open)
}

/** Of all images together. A client reads the reply into one string, which has at most some 512 MB in JavaScript. */
const BASE64_PIXELS = 100_000_000

function refuseTooMuchBase64({ request: { width, height, count } }: JobSpec): void {
  const pixels = width * height * count
  if (pixels <= BASE64_PIXELS) return
  const megapixels = (pixels / 1_000_000).toFixed(1)
  const message = `response_format is "b64_json", but ${count} images of ${width}x${height} are ${megapixels} megapixels; b64_json takes at most ${BASE64_PIXELS / 1_000_000} in all. Use response_format "url".`
  throw new ApiError('invalid_request', message, { param: 'response_format' })
}

/** An image while the caller waits: POST /v1/images/generations, as OpenAI has it. */
export const images = new Hono<EdgeEnv>().post('/generations', async (c) => {
  const { fields, submission } = await readSubmission(c)
  if (fields.response_format === 'b64_json') refuseTooMuchBase64(submission.spec)
  const caller = watchCaller(c, fields)
  const submitted = await generateNow(c.env, submission, caller).finally(caller.done)
  const { job, rates } = submitted
  const made = job.images.toSorted((a, b) => a.image - b.image)
  const headers = { 'x-octet-job': job.id, ...serverTiming(job), ...rateHeaders(rates) }
  if (fields.response_format === 'b64_json')
    return c.body(await base64Reply(c.env, submitted, made), 200, { ...headers, 'content-type': 'application/json' })
  const { origin } = new URL(c.req.url)
  return c.json(await linkedReply(c.env, origin, submitted, made, c.get('credential').keyId), 200, headers)
})

import { Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { LIMITS } from '#contract'
import { keyRequired } from '../auth.ts'
import type { EdgeEnv, Env } from '../env.ts'
import { ApiError } from '../errors.ts'
import { generateNow, idempotencyName } from '../generate.ts'
import { type Generation, generation, specify } from '../generation-request.ts'
import { decisionOf, type JobRecord, type JobSpec, warningsOf } from '../job-record.ts'
import { sha256 } from '../keys.ts'
import { readImage, resultUrl } from '../results.ts'
import { parseFields, readJson } from '../validation.ts'

/** The reply that the `openai` client reads, with what it has no field for under `octet`. */
async function reply(env: Env, origin: string, job: JobRecord, format: Generation['response_format']) {
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
      price_microdollars: job.price,
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

const tooLarge = () => {
  throw new ApiError('body_too_large', `The body is larger than ${LIMITS.requestBytes} bytes.`)
}
// OpenAI's clients send null for a field that is not set.
const withoutNulls = (body: unknown) =>
  typeof body === 'object' && body !== null && !Array.isArray(body)
    ? Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null))
    : body

/** An image while the caller waits: POST /v1/images/generations, as OpenAI has it. */
export const images = new Hono<EdgeEnv>().post(
  '/generations',
  keyRequired,
  bodyLimit({ maxSize: LIMITS.requestBytes, onError: tooLarge }),
  async (c) => {
    const fields = parseFields(generation, generation.shape, withoutNulls(await readJson(c.req.raw)))
    const name = idempotencyName(c.req.header('idempotency-key'))
    const idempotency = name === null ? null : { name, fingerprint: await sha256(JSON.stringify(fields)) }
    const credential = c.get('credential')
    const spec = specify(fields, c.env, credential)
    if (fields.response_format === 'b64_json') refuseTooMuchBase64(spec)
    const job = await generateNow(c.env, credential, spec, idempotency)
    const body = await reply(c.env, new URL(c.req.url).origin, job, fields.response_format)
    return c.json(body, 200, { 'x-octet-job': job.id, 'cache-control': 'no-store' })
  },
)

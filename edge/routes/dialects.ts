import { type Context, Hono } from 'hono'
import type { JobSpec } from '../accounts/job-spec.ts'
import { rateHeaders } from '../accounts/rate-limit-headers.ts'
import type { Dialect } from '../dialects/dialect.ts'
import { DIALECTS } from '../dialects/dialects.ts'
import { streamJson } from '../http/base64-response.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { projectJob } from '../jobs/projection.ts'
import { generateNow, type Submitted } from '../requests/generate.ts'
import { readSubmission, watchCaller } from '../requests/submission.ts'
import { serverTiming } from '../requests/view.ts'
import { openImage, resultUrl } from '../results/results.ts'

/** The reply with links that are revoked with the key `requester`. */
async function renderLinked(c: Context<EdgeEnv>, dialect: Dialect, { job, reused }: Submitted): Promise<unknown> {
  const requester = c.get('credential').keyId
  const key = requester === job.keyId ? null : requester
  const { origin } = new URL(c.req.url)
  const projected = projectJob(job)
  const urls = projected.images.map((image) => resultUrl(c.env, origin, job.id, image, undefined, key))
  return dialect.render(
    projected,
    (await Promise.all(urls)).map((url) => ({ url })),
    reused,
  )
}

/** Streams the reply with inline files. The first file is opened before the response starts, so that a deleted image is an error. */
async function streamInline({ RESULTS }: Env, dialect: Dialect, { job, reused }: Submitted): Promise<ReadableStream> {
  const projected = projectJob(job)
  const { images } = projected
  const first = await openImage(RESULTS, images[0]!)
  const open = async (index: number) => (index === 0 ? first : await openImage(RESULTS, images[index]!)).body
  const filesWith = (b64_json: string) => images.map(() => ({ b64_json }))
  return streamJson((placeholder) => dialect.render(projected, filesWith(placeholder), reused), open)
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

/** Submits a job and responds with its images. */
async function generateImages(c: Context<EdgeEnv>, dialect: Dialect): Promise<Response> {
  const { fields, submission } = await readSubmission(c, { dialect })
  const isInline = fields.response_format === 'b64_json'
  if (isInline) checkBase64Size(submission.spec)
  const caller = watchCaller(c, fields)
  const submitted = await generateNow(c.env, submission, caller).finally(caller.done)
  const { job, rates } = submitted
  const headers = { 'x-octet-job': job.id, ...serverTiming(job), ...rateHeaders(rates) }
  if (!isInline) return c.json(await renderLinked(c, dialect, submitted), 200, headers)
  const body = await streamInline(c.env, dialect, submitted)
  return c.body(body, 200, { ...headers, 'content-type': 'application/json' })
}

/** The routes of the dialects. */
export const dialects = new Hono<EdgeEnv>()
/** Middleware that renders all errors of a dialect's route, also those before its handler, in the dialect's format. */
export const dialectErrors = new Hono<EdgeEnv>()
for (const dialect of DIALECTS) {
  dialects.post(dialect.path, (c) => generateImages(c, dialect))
  dialectErrors.use(dialect.path, (c, next) => {
    if (dialect.error) c.set('renderError', dialect.error)
    return next()
  })
}

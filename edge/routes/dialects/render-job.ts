// The reply of a dialect to a job.
import type { Context } from 'hono'
import type { JobSpec } from '../../accounts/job-spec.ts'
import { createRateHeaders } from '../../accounts/rate-limit-headers.ts'
import { signLink } from '../../auth/links.ts'
import { configOf } from '../../config.ts'
import type { Dialect, RenderedJob, Reply } from '../../dialects/definition/dialect.ts'
import { streamJson } from '../../http/base64-response.ts'
import type { EdgeEnv } from '../../http/context.ts'
import { ApiError } from '../../http/errors.ts'
import { projectJob } from '../../jobs/projection.ts'
import type { JobRecord } from '../../jobs/record.ts'
import type { SubmittedJob } from '../../requests/generate.ts'
import { createServerTiming } from '../../requests/view.ts'
import { createResultUrl, LINK_SECONDS, openImage } from '../../results/results.ts'
import type { StoredImage } from '../../results/stored-image.ts'

/** The total for all images. Clients read the response into one string, which is limited to about 512 MB in JavaScript. */
const BASE64_PIXELS = 100_000_000

const pixelsOf = ({ request: { width, height, count } }: Pick<JobSpec, 'request'>) => width * height * count
/** Whether the files of a job may be sent as base64 in one response. */
export const fitsBase64 = (job: Pick<JobSpec, 'request'>): boolean => pixelsOf(job) <= BASE64_PIXELS

/** Refuses a request for base64 whose response would be too large. Errors: invalid_request. */
export function checkBase64Size(job: JobSpec): void {
  if (fitsBase64(job)) return
  const { width, height, count } = job.request
  const pixels = pixelsOf(job)
  const megapixels = (pixels / 1_000_000).toFixed(1)
  const message = `response_format is "b64_json", but ${count} images of ${width}x${height} are ${megapixels} megapixels; the limit for b64_json is ${BASE64_PIXELS / 1_000_000} in total. Use response_format "url".`
  throw new ApiError('invalid_request', message, { param: 'response_format' })
}

/** The id of the key whose revocation invalidates the links; null if it is the job's own key. */
function linkKey(c: Context<EdgeEnv>, { keyId }: JobRecord): string | null {
  const link = c.get('link')
  const requester = link ? link.key : c.get('credential').keyId
  return requester === keyId ? null : requester
}

/** Links that end with the revocation of the caller's key. */
function linksOf(c: Context<EdgeEnv>, job: JobRecord, images: readonly StoredImage[]) {
  const key = linkKey(c, job)
  const { origin } = new URL(c.req.url)
  const link = async (image: StoredImage) => ({
    url: await createResultUrl(c.env, origin, job.id, image, undefined, key),
  })
  return Promise.all(images.map(link))
}

/** The signed link to the events of a job of a dialect. */
async function createEventsLink(c: Context<EdgeEnv>, job: JobRecord, { routes }: Dialect): Promise<string | null> {
  const route = routes.find(({ action }) => action === 'follow')
  if (!route) return null
  const link = {
    path: route.path.replace(':id', job.id),
    expires: Math.floor(Date.now() / 1000) + LINK_SECONDS,
    key: linkKey(c, job),
  }
  return `${new URL(c.req.url).origin}${await signLink(configOf(c.env).peppers, link)}`
}

type Facts = Omit<RenderedJob, 'files'>

/** A job for `render`, with the links of its images. */
export async function toRenderedJob(c: Context<EdgeEnv>, dialect: Dialect, job: JobRecord): Promise<RenderedJob> {
  const facts = factsOf(c, { job, reused: false }, await createEventsLink(c, job, dialect))
  return { ...facts, files: await linksOf(c, job, facts.job.images) }
}

type Render = (rendered: RenderedJob) => Reply
/** The form of a job's files in a reply. */
export type Files = 'b64_json' | 'both' | 'url'

/** Streams JSON with inline files. The first file is opened before the response starts, so that a deleted image is an error. */
async function streamInline({ RESULTS }: Env, facts: Facts, links: readonly { url: string | null }[], render: Render) {
  const { images } = facts.job
  const first = await openImage(RESULTS, images[0]!)
  const open = async (index: number) => (index === 0 ? first : await openImage(RESULTS, images[index]!)).body
  const renderWith = (b64_json: string) =>
    render({ ...facts, files: images.map((_, k) => ({ ...links[k], b64_json })) })
  const renderJson = (placeholder: string) => {
    const reply = renderWith(placeholder)
    return 'json' in reply ? reply.json : null
  }
  return { ...renderWith(''), body: streamJson(renderJson, open) }
}

/** A job in the form that dialects render, without its files. */
export function factsOf(
  c: Context<EdgeEnv>,
  { job, reused, joined }: Omit<SubmittedJob, 'rates'>,
  eventsUrl: string | null = null,
): Facts {
  const { origin } = new URL(c.req.url)
  const { progress, request: parameters } = job
  return { job: projectJob(job), progress, parameters, reused, origin, eventsUrl, ...(joined && { joined }) }
}

/** Responds with a job as a dialect renders it. Files are base64 only once the job has succeeded. Errors: not_found for an image that does not exist. */
export async function renderJob(
  c: Context<EdgeEnv>,
  dialect: Dialect,
  render: Render,
  submitted: SubmittedJob,
  files: Files = 'url',
): Promise<Response> {
  const { job, rates } = submitted
  const facts = factsOf(c, submitted, await createEventsLink(c, job, dialect))
  const projected = facts.job
  const headers = { 'x-octet-job': job.id, ...createServerTiming(job), ...createRateHeaders(rates) }
  const json = { ...headers, 'content-type': 'application/json' }
  if (files !== 'url' && projected.images.length > 0) {
    const links = files === 'both' ? await linksOf(c, job, projected.images) : []
    const reply = await streamInline(c.env, facts, links, render)
    return c.body(reply.body, reply.status ?? 200, { ...json, ...reply.headers })
  }
  const reply = render({ ...facts, files: await linksOf(c, job, projected.images) })
  if ('json' in reply) return c.body(JSON.stringify(reply.json), reply.status ?? 200, { ...json, ...reply.headers })
  const image = projected.images[reply.image]
  if (!image) throw new ApiError('not_found', `The job ${job.id} has no image ${reply.image} yet.`)
  const { body } = await openImage(c.env.RESULTS, image)
  const file = { 'content-type': image.content_type, 'content-length': String(image.bytes) }
  return c.body(body, reply.status ?? 200, { ...headers, ...file, ...reply.headers })
}

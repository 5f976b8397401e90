// fal's HTTP API below /fal/run (fal.run) and /fal/queue (queue.fal.run). docs.fal.ai/model-apis/model-endpoints/queue
import { ApiError, type Problem } from '../http/errors.ts'
import type { Dialect, DialectRequest, RenderEvent, RenderedJob, Translation } from './definition/dialect.ts'
import { readImageInput } from './definition/image-input.ts'
import type { ImageFile, PublicJob } from './definition/public-job.ts'

const QUEUE = '/fal/queue'
const REQUEST = `${QUEUE}/:owner/:alias/requests/:id`
const STREAM = /\/stream$/

/** The default of fal's image-to-image apps. */
const STRENGTH = 0.95

/** The model of an app: `octet/nano` is nano, `fal-ai/flux/dev` is flux/dev. */
const modelOf = (app: string) => app.replace(STREAM, '').split('/').slice(1).join('/') || 'auto'

function translate({ params, body }: DialectRequest): Omit<Translation, 'wait'> {
  const { fields, ...others } = readImageInput(body, STRENGTH)
  return { fields: { ...fields, model: modelOf(params.app ?? '') }, ...others }
}

/** A direct call. A call of an app's `stream` returns events; with `sync_mode`, images are data URIs. */
function parseRun(request: DialectRequest): Translation {
  const { fields, ...others } = translate(request)
  if (STREAM.test(request.params.app ?? '')) return { fields, ...others, wait: 'events' }
  const isInline = request.body.sync_mode === true
  return { fields: { ...fields, ...(isInline && { response_format: 'b64_json' }) }, ...others, wait: 'end' }
}

/** The methods of a path with `/requests/`, which belongs to a queued request; null for the path of an app. */
function methodsOf(path: string): readonly string[] | null {
  if (!path.includes('/requests/')) return null
  return /\/cancel\/?$/.test(path) ? ['PUT'] : ['GET']
}

function parseQueued(request: DialectRequest): Translation {
  const { fields, ...others } = translate(request)
  const webhook = request.query.fal_webhook
  return { fields: { ...fields, ...(webhook && { webhook }) }, ...others, wait: 0 }
}

type Image = Pick<PublicJob['images'][number], 'bytes' | 'content_type' | 'height' | 'seed' | 'width'>
type LinkedImage = Image & { url: string | null }

const urlOf = (file: ImageFile, type: string) =>
  'b64_json' in file ? `data:${type};base64,${file.b64_json}` : file.url

/** The output of an app. There is no safety checker. */
const outputOf = (images: readonly Image[], urls: readonly (string | null)[], prompt: string) => ({
  images: images.map(({ width, height, content_type, bytes }, k) => ({
    ...{ url: urls[k], width, height, content_type, file_size: bytes },
  })),
  seed: images[0]?.seed ?? null,
  has_nsfw_concepts: images.map(() => false),
  prompt,
})

function renderOutput({ job, files, parameters }: RenderedJob) {
  const urls = files.map((file, k) => urlOf(file, job.images[k]!.content_type))
  const timings = job.timings && { timings: { inference: job.timings.denoise } }
  return { ...outputOf(job.images, urls, parameters.prompt), ...timings }
}

const isFinal = ({ state }: PublicJob) => state === 'succeeded' || state === 'failed' || state === 'canceled'

/** Warnings and the current step as lines of a log. */
function logsOf({ job, progress }: RenderedJob) {
  const timestamp = new Date(job.created * 1000).toISOString()
  const lines = job.warnings.map(({ message }) => ({ message, level: 'WARNING', source: 'octet', timestamp }))
  if (!progress || !('step' in progress)) return lines
  const message = `image ${progress.image}: step ${progress.step} of ${progress.steps}`
  return [...lines, { message, level: 'INFO', source: 'octet', timestamp }]
}

function statusOf(rendered: RenderedJob) {
  const { job, progress, origin } = rendered
  const response_url = `${origin}${QUEUE}/octet/${job.model}/requests/${job.id}`
  const links = { response_url, status_url: `${response_url}/status`, cancel_url: `${response_url}/cancel` }
  const common = { request_id: job.id, ...links, logs: logsOf(rendered) }
  if (isFinal(job)) {
    const metrics = { inference_time: job.timings?.total ?? null }
    return { status: 'COMPLETED', ...common, metrics, ...(job.error && { error: job.error.message }) }
  }
  if (job.state === 'running') return { status: 'IN_PROGRESS', ...common }
  return { status: 'IN_QUEUE', ...common, queue_position: progress && 'position' in progress ? progress.position : 0 }
}

const headersOf = ({ job }: RenderedJob) => ({ 'x-fal-request-id': job.id })

const renderStatus = (rendered: RenderedJob) => ({
  ...{ headers: headersOf(rendered), json: statusOf(rendered) },
  status: isFinal(rendered.job) ? (200 as const) : (202 as const),
})

const renderQueued = (rendered: RenderedJob) => ({ headers: headersOf(rendered), json: statusOf(rendered) })

/** The status and message of a job without an output. Clients repeat a request for an output after 502, 503 and 504. */
function failureOf({ state, error }: PublicJob): { status: 400 | 422 | 500; message: string } {
  if (state === 'canceled') return { status: 400, message: 'The request was canceled.' }
  if (!error) return { status: 400, message: 'The request is still in progress.' }
  return { status: error.code === 'invalid_request' ? 422 : 500, message: error.message }
}

function renderResult(rendered: RenderedJob) {
  const headers = headersOf(rendered)
  if (rendered.job.state === 'succeeded') return { headers, json: renderOutput(rendered) }
  const { status, message } = failureOf(rendered.job)
  return { headers, status, json: { detail: message, message } }
}

const renderCanceled = (rendered: RenderedJob) =>
  isFinal(rendered.job) && !rendered.job.cancel_requested
    ? { status: 400 as const, headers: headersOf(rendered), json: { status: 'ALREADY_COMPLETED' } }
    : { status: 202 as const, headers: headersOf(rendered), json: { status: 'CANCELLATION_REQUESTED' } }

/** Steps, then the output. The events of this API have no error, so that a failure ends the connection. */
const renderOutputEvent: RenderEvent = (event, rendered) => {
  if (event.type === 'step') {
    const { image, step, steps } = event
    return [{ data: JSON.stringify({ status: 'IN_PROGRESS', image, step, steps }) }]
  }
  if (event.type === 'succeeded') return [{ data: JSON.stringify(renderOutput(rendered)) }]
  if (event.type !== 'failed' && event.type !== 'canceled') return []
  throw new ApiError('generation_failed', failureOf(rendered.job).message)
}

/** Renders each change of the status as one event. */
const renderStatusEvent: RenderEvent = ({ type, ...event }, rendered) => {
  if (isFinal(rendered.job)) return [{ data: JSON.stringify(statusOf(rendered)) }]
  const state = type === 'running' || type === 'step' ? ('running' as const) : ('queued' as const)
  const progress = type === 'step' || type === 'queued' ? (event as unknown as RenderedJob['progress']) : null
  return [{ data: JSON.stringify(statusOf({ ...rendered, job: { ...rendered.job, state }, progress })) }]
}

/** `message` and `detail` are for different clients. Problems of fields have the form of FastAPI. */
const createError = ({ request_id, detail, status, errors = [], error: { code } }: Problem) => {
  const problems = errors.map(({ param, message }) => ({
    ...{ loc: ['body', ...(param === null ? [] : [param])], msg: message, type: code },
  }))
  return {
    ...(status === 400 && problems.length > 0 && { status: 422 as const }),
    headers: { 'x-fal-request-id': request_id },
    json: { message: detail, detail: problems.length > 0 ? problems : detail },
  }
}

/** Apps of any owner are the deployment's models. */
export const fal: Dialect = {
  name: 'fal',
  routes: [
    {
      method: 'POST',
      path: '/fal/run/:app{.+}',
      ...{ action: 'submit', accepts: 'json', parse: parseRun },
      render: (rendered: RenderedJob) => ({ headers: headersOf(rendered), json: renderOutput(rendered) }),
      renderEvent: renderOutputEvent,
    },
    {
      method: 'POST',
      path: `${QUEUE}/:app{.+}`,
      ...{ action: 'submit', accepts: 'json', methodsOf, parse: parseQueued, render: renderQueued },
    },
    { method: 'GET', path: REQUEST, action: 'read', render: renderResult },
    { method: 'GET', path: `${REQUEST}/status`, action: 'read', render: renderStatus },
    { method: 'GET', path: `${REQUEST}/status/stream`, action: 'follow', renderEvent: renderStatusEvent },
    { method: 'PUT', path: `${REQUEST}/cancel`, action: 'cancel', render: renderCanceled },
  ],
  keyPlaces: ['Key', 'Bearer'],
  cors: { origins: '*', exposedHeaders: ['x-fal-request-id'] },
  error: createError,
  webhook({ data }) {
    const { id, state, images, error } = data as unknown as Omit<PublicJob, 'images'> & { images: LinkedImage[] }
    const urls = images.map(({ url }) => url)
    const ids = { request_id: id, gateway_request_id: id }
    if (state === 'succeeded') return { ...ids, status: 'OK', payload: outputOf(images, urls, '') }
    return { ...ids, status: 'ERROR', error: error?.message ?? 'The request was canceled.', payload: null }
  },
}

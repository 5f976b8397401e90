// Replicate's HTTP API: predictions. replicate.com/docs/reference/http
import * as z from 'zod'
import type { Problem } from '../http/errors.ts'
import { waitSeconds } from '../http/prefer.ts'
import { parseFields } from '../http/validation.ts'
import type { Warning } from '../routing/decision.ts'
import type {
  Dialect,
  DialectRequest,
  RenderEvent,
  RenderedJob,
  ServerSentEvent,
  Translation,
} from './definition/dialect.ts'
import { createIgnoredWarning, readImageInput } from './definition/image-input.ts'
import type { JobState, ListedJob, Progress, PublicJob } from './definition/public-job.ts'

const WEBHOOK_EVENTS = ['start', 'output', 'logs', 'completed'] as const

const body = z.object({
  input: z.record(z.string(), z.unknown()).describe('an object with the parameters of the model'),
  /** `owner/name`, `owner/name:version` or a version. */
  version: z.string().max(200).describe('a version or a model, as owner/name').optional(),
  model: z.string().max(200).describe('a model, as owner/name').optional(),
  webhook: z.string().describe('an https:// address').optional(),
  webhook_events_filter: z
    .array(z.enum(WEBHOOK_EVENTS))
    .describe(`a list of ${WEBHOOK_EVENTS.join(', ')}`)
    .optional(),
})
type Body = z.infer<typeof body>

/** The default of `prompt_strength` in Replicate's models of SD3.5. */
const STRENGTH = 0.85

/** Whether a version is a digest, as at Replicate. Deployments of Octet have no such versions. */
const isDigest = (version: string) => /^[0-9a-f]{64}$/.test(version)

/** The model of a reference: the name of `owner/name:version`, or a version, which is the name of its model. */
function modelOf(reference: string): { model: string; warnings: Warning[] } {
  if (isDigest(reference)) return { model: 'auto', warnings: [createIgnoredWarning('version', reference)] }
  const [name = ''] = reference.slice(reference.lastIndexOf('/') + 1).split(':')
  return { model: name, warnings: [] }
}

/** Without a filter, or with an empty one, the webhook receives the end, which includes the output. */
const eventsOf = ({ webhook, webhook_events_filter: events = [] }: Body): Pick<Translation, 'webhookEvents'> =>
  webhook === undefined || events.length === 0 ? {} : { webhookEvents: events }

function parse({ params, headers, body: given }: DialectRequest): Translation {
  const parsed = parseFields(body, body.shape, given)
  const { fields, warnings, ...size } = readImageInput(parsed.input, STRENGTH)
  const reference = params.name ?? parsed.version ?? parsed.model ?? 'auto'
  const { model, warnings: others } = modelOf(reference)
  return {
    fields: { ...fields, model, ...(parsed.webhook !== undefined && { webhook: parsed.webhook }) },
    ...eventsOf(parsed),
    wait: waitSeconds(headers.get('prefer') ?? undefined),
    warnings: [...others, ...warnings],
    ...size,
  }
}

const isoOf = (seconds: number | null) => (seconds === null ? null : new Date(seconds * 1000).toISOString())

/** A line of a progress bar, from which clients parse the progress. */
function formatProgressLine(image: number, step: number, steps: number): string {
  const share = step / steps
  const bar = '█'.repeat(Math.round(share * 10)).padEnd(10)
  return `${String(Math.floor(share * 100)).padStart(3)}%|${bar}| ${step}/${steps} [image ${image}]`
}

function logsOf({ warnings = [] }: Pick<Shown, 'warnings'>, progress: Progress): string {
  const lines = warnings.map(({ message }) => `Warning: ${message}`)
  if (progress && 'step' in progress) lines.push(formatProgressLine(progress.image, progress.step, progress.steps))
  return lines.join('\n')
}

const STATUSES: Readonly<Record<JobState | 'in_progress', string>> = {
  queued: 'starting',
  starting: 'starting',
  in_progress: 'processing',
  running: 'processing',
  succeeded: 'succeeded',
  failed: 'failed',
  canceled: 'canceled',
}

type Shown = Partial<Omit<PublicJob, 'images' | 'state'>> &
  Pick<ListedJob, 'id' | 'created' | 'finished' | 'model' | 'state'>
type Sources = { urls: readonly (string | null)[]; input: object; progress: Progress; stream: string | null }

/** The prediction of a job. */
function predictionOf(job: Shown, origin: string, { urls, input, progress, stream }: Sources) {
  const get = `${origin}/v1/predictions/${job.id}`
  const { finished, timings } = job
  const seconds = timings ? { predict_time: timings.total, total_time: finished! - job.created } : {}
  return {
    id: job.id,
    ...{ model: `octet/${job.model}`, version: job.model, input, source: 'api', data_removed: false },
    status: STATUSES[job.state],
    output: job.state === 'succeeded' ? urls.filter((url) => url !== null) : null,
    error: job.error?.message ?? null,
    logs: logsOf(job, progress),
    metrics: finished === null ? {} : { ...seconds, image_count: urls.length },
    created_at: isoOf(job.created),
    started_at: timings ? isoOf(finished! - timings.total) : null,
    completed_at: isoOf(finished),
    urls: { get, cancel: `${get}/cancel`, ...(stream && { stream }) },
  }
}

const urlOf = (file: object) => ('url' in file ? (file.url as string | null) : null)

function render({ job, files, parameters, progress, origin, eventsUrl }: RenderedJob) {
  const { prompt, negative_prompt, width, height, steps, guidance_scale, seed, count, output_format } = parameters
  const sampling = { num_inference_steps: steps, guidance_scale, seed, num_outputs: count }
  const input = { prompt, negative_prompt, width, height, ...sampling, output_format }
  return predictionOf(job, origin, { urls: files.map(urlOf), input, progress, stream: eventsUrl })
}

/** The reply to a new prediction. Clients that waited poll a prediction only if it is still "starting". */
const renderNew = (rendered: RenderedJob) => {
  const prediction = render(rendered)
  const status = prediction.status === 'processing' ? 'starting' : prediction.status
  return { status: 201 as const, json: { ...prediction, status } }
}

const createDone = (reason: object): ServerSentEvent => ({ event: 'done', data: JSON.stringify(reason) })

const renderEvent: RenderEvent = (event, { job, files }) => {
  switch (event.type) {
    case 'step': {
      const { image, step, steps } = event as unknown as { image: number; step: number; steps: number }
      return [{ event: 'logs', data: formatProgressLine(image, step, steps) }]
    }
    case 'succeeded':
      return [...files.map((file) => ({ event: 'output', data: urlOf(file) ?? '' })), createDone({})]
    case 'failed':
      return [
        { event: 'error', data: JSON.stringify({ detail: job.error?.message ?? 'The job failed.' }) },
        createDone({ reason: 'error' }),
      ]
    case 'canceled':
      return [createDone({ reason: 'canceled' })]
    default:
      return []
  }
}

const describeVersion = (model: string) => ({
  ...{ id: model, created_at: isoOf(0), cog_version: '', openapi_schema: {} },
})

/** A model under any owner. */
const describeModel = ({ params }: DialectRequest) => {
  const { owner = '', name = '' } = params
  return {
    ...{ owner, name, url: '', description: null, visibility: 'public', run_count: 0 },
    ...{ github_url: null, paper_url: null, license_url: null, cover_image_url: null, default_example: null },
    latest_version: describeVersion(name),
  }
}

const createError = ({ type, title, status, detail, errors, request_id }: Problem) => ({
  json: { type, title, status, detail, request_id, ...(errors && { invalid_fields: errors }) },
})

/** Predictions of the deployment's models, which belong to any owner. */
export const replicate: Dialect = {
  name: 'replicate',
  routes: [
    { method: 'POST', path: '/v1/predictions', action: 'submit', accepts: 'json', parse, render: renderNew },
    {
      method: 'POST',
      path: '/v1/models/:owner/:name/predictions',
      ...{ action: 'submit', accepts: 'json', parse, render: renderNew },
    },
    {
      method: 'GET',
      path: '/v1/predictions',
      action: 'list',
      parse: ({ query: { cursor } }) => ({ limit: 100, after: cursor }),
      render: (jobs, next, { origin }) => ({
        json: {
          previous: null,
          next: next && `${origin}/v1/predictions?cursor=${next}`,
          results: jobs.map((job) =>
            predictionOf(job, origin, {
              ...{ urls: job.images.map(({ url }) => url), input: {}, progress: null, stream: null },
            }),
          ),
        },
      }),
    },
    { method: 'GET', path: '/v1/predictions/:id', action: 'read', render: (rendered) => ({ json: render(rendered) }) },
    {
      method: 'POST',
      path: '/v1/predictions/:id/cancel',
      action: 'cancel',
      render: (rendered) => ({ json: render(rendered) }),
    },
    { method: 'GET', path: '/v1/predictions/:id/stream', action: 'follow', renderEvent },
    {
      method: 'GET',
      path: '/v1/models/:owner/:name',
      action: 'describe',
      render: (_, request) => ({ json: describeModel(request) }),
    },
    {
      method: 'GET',
      path: '/v1/models/:owner/:name/versions/:version',
      action: 'describe',
      render: (_, { params }) => ({ json: describeVersion(params.version ?? '') }),
    },
  ],
  keyPlaces: ['Bearer', 'Token'],
  error: createError,
  webhook({ data }, origin) {
    const job = data as unknown as Shown & { images: { url: string | null }[]; progress?: Progress }
    const urls = job.images.map(({ url }) => url)
    return predictionOf(job, origin, { urls, input: {}, progress: job.progress ?? null, stream: null })
  },
}

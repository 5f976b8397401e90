// The tools of the MCP server: each runs a native request of the caller and describes the result as text.
import type { CallToolResult, ContentBlock, ServerContext } from '@modelcontextprotocol/server'
import type { Context } from 'hono'
import type { JobView } from '../../dialects/definition/public-job.ts'
import { JOINED } from '../../dialects/openai/render.ts'
import type { EdgeEnv } from '../../http/context.ts'
import { isFinal, type JobRecord } from '../../jobs/record.ts'
import { objectOf } from '../../platform/durable-objects.ts'
import { formatDollars } from '../../platform/units.ts'
import { findOwnJob } from '../../requests/own-job.ts'
import { quoteRequest } from '../../requests/quote.ts'
import { createSubmission, submitAndWait } from '../../requests/submission.ts'
import { readerOf, viewOf } from '../../requests/view.ts'
import { previewOf } from './preview.ts'

type Progress = Pick<ServerContext['mcpReq'], '_meta' | 'notify'>

/** The longest wait of a call. Clients end calls after 60 s. */
const WAIT_MS = 45_000
/** The interval of progress notifications, which keep a connection open. */
const PROGRESS_MS = 5_000

const createTextBlock = (text: string): ContentBlock => ({ type: 'text', text })

function stateOf({ state, progress }: JobRecord): string {
  if (progress && 'step' in progress) return `image ${progress.image + 1}: step ${progress.step} of ${progress.steps}`
  if (progress && progress.position > 0) return `queued, ${progress.position} ahead`
  return state === 'running' ? 'running' : 'waiting for a GPU'
}

/** Waits for the job's end, at most WAIT_MS, with notifications of its progress. */
async function waitFor(c: Context<EdgeEnv>, job: JobRecord, { _meta, notify }: Progress): Promise<JobRecord> {
  const end = Date.now() + WAIT_MS
  const progressToken = _meta?.progressToken
  let current = job
  for (let progress = 1; !isFinal(current) && Date.now() < end; progress++) {
    if (progressToken !== undefined)
      await notify({ method: 'notifications/progress', params: { progressToken, progress, message: stateOf(current) } })
    current = await objectOf(c.env.JOB, job.id).ended(Math.min(end, Date.now() + PROGRESS_MS))
  }
  return current
}

const formatImageLine = ({ url, seed, width, height, expires_at }: JobView['images'][number], k: number) =>
  `Image ${k + 1}: ${url ?? 'deleted or expired'} (${width}x${height}, seed ${seed}, kept until ${new Date(expires_at * 1000).toISOString()}; the link is valid for an hour, and get_job returns a new one)`

/** Describes a job as text, with a link per image and a small preview of the first one. */
async function describeJob(
  c: Context<EdgeEnv>,
  job: JobRecord,
  notes: readonly string[] = [],
): Promise<CallToolResult> {
  const view = await viewOf(readerOf(c), job)
  const { id, state, error, images, price_microdollars, route, model, steps } = view
  if (!isFinal(job))
    return { content: [createTextBlock(`The job ${id} is not finished: ${stateOf(job)}. Call get_job with this id.`)] }
  if (state !== 'succeeded') {
    const reason = error?.message ?? 'The job was canceled.'
    return {
      isError: true,
      content: [createTextBlock(`The job ${id} ${state}: ${reason} It cost ${formatDollars(price_microdollars)}.`)],
    }
  }
  const made = `Job ${id}: ${model}, ${route} route, ${steps} steps, ${formatDollars(price_microdollars)}.`
  const warnings = [...view.warnings.map(({ message }) => message), ...notes].map((each) => `Warning: ${each}`)
  const links = images.flatMap(({ url, content_type, image }): ContentBlock[] =>
    url === null ? [] : [{ type: 'resource_link', uri: url, name: `image ${image + 1}`, mimeType: content_type }],
  )
  const preview = await previewOf(c.env, job)
  return {
    content: [createTextBlock([made, ...images.map(formatImageLine), ...warnings].join('\n')), ...preview, ...links],
    structuredContent: {
      ...{ id, state, price_microdollars },
      images: images.map(({ url, seed, width, height, content_type, expires_at }) => ({
        ...{ url, seed, width, height, content_type, expires_at },
      })),
    },
  }
}

/** Requests previews for large images, whose files are too large for a reply. */
const addPreviews = (fields: Record<string, unknown>) => ({ ...fields, partial_images: 1 })

export async function generateImage(
  c: Context<EdgeEnv>,
  given: Record<string, unknown>,
  { mcpReq }: { mcpReq: Progress },
): Promise<CallToolResult> {
  // A client that gave up repeats the same call, which joins the running job.
  const { fields, submission } = await createSubmission(c, addPreviews(given), { joins: true })
  const { job, joined } = await submitAndWait(c, fields, submission, 0)
  return describeJob(c, await waitFor(c, job, mcpReq), joined ? [JOINED.message] : [])
}

export async function getJob(
  c: Context<EdgeEnv>,
  { id }: { id: string },
  { mcpReq }: { mcpReq: Progress },
): Promise<CallToolResult> {
  return describeJob(c, await waitFor(c, await findOwnJob(c, 'read', id), mcpReq))
}

export async function quoteImage(c: Context<EdgeEnv>, given: Record<string, unknown>): Promise<CallToolResult> {
  const quote = await quoteRequest(c, given)
  const { price_microdollars, model, route, size, reason, expected_seconds } = quote
  const expected = expected_seconds === null ? 'not measured yet' : JSON.stringify(expected_seconds)
  const summary = `The request costs ${formatDollars(price_microdollars)}: ${model}, ${route} route, ${size}. ${reason}`
  return { content: [createTextBlock(`${summary} Expected seconds: ${expected}.`)], structuredContent: { ...quote } }
}

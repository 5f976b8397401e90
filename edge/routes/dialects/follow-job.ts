// Streams the events of a job in the format of a dialect.
import type { Context } from 'hono'
import { isStillAuthorized } from '../../auth/auth.ts'
import { areLinksValid } from '../../auth/links.ts'
import type {
  Dialect,
  DialectRequest,
  RenderEvent,
  ServerSentEvent,
  StreamedEvent,
} from '../../dialects/definition/dialect.ts'
import type { EdgeEnv } from '../../http/context.ts'
import { ApiError } from '../../http/errors.ts'
import { parseLastEventId } from '../../http/last-event-id.ts'
import { JOB_ID } from '../../jobs/job-id.ts'
import type { JobRecord } from '../../jobs/record.ts'
import { objectOf } from '../../platform/durable-objects.ts'
import { followJob } from '../../requests/follow.ts'
import { toRenderedJob } from './render-job.ts'

/** Whether the signed link of a request is still valid: its key is active. */
const isLinkValid = (c: Context<EdgeEnv>, { account, keyId }: JobRecord) =>
  areLinksValid(c.env, account, c.get('link')?.key ?? keyId)

/** The job of a signed link to its events. Errors: not_found; link_revoked if the link's key is no longer active. */
export async function findLinkedJob(c: Context<EdgeEnv>): Promise<JobRecord> {
  const id = c.req.param('id') ?? ''
  const job = JOB_ID.test(id) ? await objectOf(c.env.JOB, id).view() : null
  if (!job) throw new ApiError('not_found', `There is no job ${id}.`)
  if (await isLinkValid(c, job)) return job
  throw new ApiError(
    'link_revoked',
    'The API key of this link is no longer active. Fetch the job again with another key.',
  )
}

const ENDS: ReadonlySet<string> = new Set(['succeeded', 'failed', 'canceled'])

/** A block of the native stream: an event with its id, or null for a comment. */
function parseBlock(block: string): { id: string; event: StreamedEvent } | null {
  const lines = block.split('\n')
  const readField = (name: string) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2)
  const [id, data] = [readField('id'), readField('data')]
  return id === undefined || data === undefined ? null : { id, event: JSON.parse(data) }
}

const textOf =
  (id: string) =>
  ({ event, data }: ServerSentEvent) =>
    `id: ${id}\n${event === undefined ? '' : `event: ${event}\n`}data: ${data}\n\n`

/** Renders the blocks of the native stream. Comments, which keep the connection open, stay as they are. */
function renderBlocks(render: (event: StreamedEvent) => Promise<readonly ServerSentEvent[]>) {
  const [decoder, encoder] = [new TextDecoder(), new TextEncoder()]
  return new TransformStream<Uint8Array, Uint8Array>({
    async transform(chunk, controller) {
      try {
        // Each chunk has complete blocks only.
        for (const block of decoder.decode(chunk).split('\n\n').filter(Boolean)) {
          const parsed = parseBlock(block)
          const text = parsed ? (await render(parsed.event)).map(textOf(parsed.id)).join('') : `${block}\n\n`
          if (text !== '') controller.enqueue(encoder.encode(text))
        }
      } catch (cause) {
        controller.error(cause)
      }
    },
  })
}

/** Responds with the events of a job after `Last-Event-ID`, until its end. Errors: rate_limited when the job has too many readers. */
export async function followAsDialect(
  c: Context<EdgeEnv>,
  dialect: Dialect,
  { renderEvent }: { renderEvent?: RenderEvent },
  job: JobRecord,
  request: DialectRequest,
): Promise<Response> {
  if (!renderEvent) throw new Error(`the dialect ${dialect.name} renders no events`)
  const atStart = await toRenderedJob(c, dialect, job)
  const render = async (event: StreamedEvent) => {
    const ended = ENDS.has(event.type) ? await objectOf(c.env.JOB, job.id).view() : null
    return renderEvent(event, ended ? await toRenderedJob(c, dialect, ended) : atStart, request)
  }
  const isAllowed = () => (c.get('link') ? isLinkValid(c, job) : isStillAuthorized(c.env, c.get('credential'), 'read'))
  const events = await followJob(c.env, job.id, parseLastEventId(c.req.header('last-event-id')), isAllowed)
  return c.body(events.pipeThrough(renderBlocks(render)), 200, {
    ...{ 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' },
    'x-octet-job': job.id,
  })
}

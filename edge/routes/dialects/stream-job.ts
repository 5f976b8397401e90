// Submits a job and streams its server-sent events in the format of a dialect.
import type { Context } from 'hono'
import { createRateHeaders } from '../../accounts/rate-limit-headers.ts'
import { isStillAuthorized } from '../../auth/auth.ts'
import type { JobStream, Preview, RenderedJob, StreamEvent } from '../../dialects/definition/dialect.ts'
import { piecesOf, streamOf } from '../../http/base64-response.ts'
import type { EdgeEnv } from '../../http/context.ts'
import { describeThrown } from '../../http/errors.ts'
import { isFinal, type JobRecord } from '../../jobs/record.ts'
import { objectOf } from '../../platform/durable-objects.ts'
import { followJob } from '../../requests/follow.ts'
import { describeFailure, type Submission, type SubmittedJob } from '../../requests/generate.ts'
import type { Generation } from '../../requests/generation-request.ts'
import { submitAndWait, watchCaller } from '../../requests/submission.ts'
import { openImage } from '../../results/results.ts'
import { checkBase64Size, factsOf } from './render-job.ts'

const utf8 = new TextEncoder()
const textOf = ({ event, data }: StreamEvent) => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`

/** The preview of an event of the job's own stream; null for other events. */
function previewOf(event: string): Preview | null {
  if (!/^event: preview$/m.test(event)) return null
  const [, data] = /^data: (.*)$/m.exec(event)!
  return JSON.parse(data!) as Preview
}

/** The previews of a running job, and the comments of its event stream, which keep the connection alive. */
async function* previewsOf(
  events: ReadableStream<Uint8Array>,
  stream: JobStream,
  rendered: RenderedJob,
): AsyncGenerator<Uint8Array, void> {
  const counts = new Map<number, number>()
  const decoder = new TextDecoder()
  for await (const chunk of events) {
    // Each chunk has whole events; see requests/follow.ts.
    for (const event of decoder.decode(chunk, { stream: true }).split('\n\n')) {
      if (event.startsWith(':')) yield utf8.encode(`${event}\n\n`)
      const preview = previewOf(event)
      if (!preview) continue
      const index = counts.get(preview.image) ?? 0
      counts.set(preview.image, index + 1)
      yield utf8.encode(textOf(stream.preview(rendered, preview, index)))
    }
  }
}

/** The events of the finished images. */
async function* imagesOf(env: Env, stream: JobStream, facts: Omit<RenderedJob, 'files'>) {
  const { images } = facts.job
  for (const [k, image] of images.entries()) {
    const placeholder = crypto.randomUUID()
    const rendered = { ...facts, files: images.map(() => ({ b64_json: placeholder })) }
    const open = async () => (await openImage(env.RESULTS, image)).body
    yield* piecesOf(textOf(stream.image(rendered, k)).split(placeholder), open)
  }
}

/** All events of a job: previews, then its images or the error. */
async function* eventsOf(
  c: Context<EdgeEnv>,
  stream: JobStream,
  submitted: SubmittedJob,
  ended: Promise<JobRecord>,
): AsyncGenerator<Uint8Array, void> {
  const { id } = submitted.job
  const facts = factsOf(c, submitted)
  try {
    if (!isFinal(submitted.job)) {
      const isAllowed = () => isStillAuthorized(c.env, c.get('credential'), 'generate')
      yield* previewsOf(await followJob(c.env, id, 0, isAllowed), stream, { ...facts, files: [] })
    }
    const job = await ended
    if (job.state !== 'succeeded') throw describeFailure(job)
    yield* imagesOf(c.env, stream, factsOf(c, { ...submitted, job }))
  } catch (thrown) {
    const { error } = describeThrown(c, thrown)
    yield utf8.encode(textOf({ event: 'error', data: { error } }))
  }
}

/** Submits a job and replies with its events. A caller who disconnects cancels the job if the request has `on_disconnect: cancel`. */
export async function streamJob(
  c: Context<EdgeEnv>,
  stream: JobStream,
  fields: Generation,
  submission: Submission,
): Promise<Response> {
  checkBase64Size(submission.spec)
  const submitted = await submitAndWait(c, fields, submission, 0)
  const caller = watchCaller(c, fields)
  caller.onJob(submitted.job.id)
  // Registers the caller with the job, so that the disconnection of another one does not cancel it.
  const ended = objectOf(c.env.JOB, submitted.job.id).ended(null, caller.id)
  ended.catch(() => {})
  async function* readUntilDone() {
    try {
      yield* eventsOf(c, stream, submitted, ended)
      caller.done()
    } finally {
      // If not all events were sent, the reader has canceled the stream.
      caller.leave(submitted.job.id)
    }
  }
  return c.body(streamOf(readUntilDone()), 200, {
    'content-type': 'text/event-stream',
    'cache-control': 'no-store, no-transform',
    'x-accel-buffering': 'no',
    'x-octet-job': submitted.job.id,
    ...createRateHeaders(submitted.rates),
  })
}

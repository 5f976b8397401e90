import { type Context, Hono } from 'hono'
import { jobId } from '#contract'
import { createRateHeaders } from '../accounts/rate-limit-headers.ts'
import { isStillAuthorized, requireScope } from '../auth/auth.ts'
import { areLinksValid } from '../auth/links.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { parseLastEventId } from '../http/last-event-id.ts'
import { waitSeconds } from '../http/prefer.ts'
import { isFinal, type JobRecord } from '../jobs/record.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { followJob } from '../requests/follow.ts'
import { findLinkedJob, findOwnJob } from '../requests/own-job.ts'
import { readSubmission, submitAndWait } from '../requests/submission.ts'
import { createServerTiming, listJobs, readerOf, viewOf } from '../requests/view.ts'

/** The preferred wait in seconds, and the response header that confirms it. */
function waitOf(c: Context<EdgeEnv>): { seconds: number; applied: Record<string, string> } {
  const seconds = waitSeconds(c.req.header('prefer'))
  return { seconds, applied: seconds === 0 ? {} : { 'preference-applied': `wait=${seconds}` } }
}

/** Responds with the job: 200 if it has ended, otherwise 202. */
async function reply(c: Context<EdgeEnv>, job: JobRecord, headers: Record<string, string> = {}, reused = false) {
  const view = await viewOf(readerOf(c), job)
  const body = reused ? { ...view, reused, price_microdollars: 0 } : view
  const open = isFinal(job) ? {} : { 'retry-after': '1' }
  return c.json(body, isFinal(job) ? 200 : 202, { ...open, ...createServerTiming(job), ...headers })
}

/** Submits the job, waits for its end up to the preferred wait, and responds with it. */
async function submitJob(c: Context<EdgeEnv>, name: string | null = null) {
  const { fields, submission } = await readSubmission(c, name)
  const { seconds, applied } = waitOf(c)
  const { job, rates, reused } = await submitAndWait(c, fields, submission, seconds * 1000)
  const address = { location: `/v1/jobs/${job.id}`, 'x-octet-job': job.id }
  return reply(c, job, { ...address, ...applied, ...createRateHeaders(rates) }, reused)
}

/** Validates a job name from the caller. The prefix `job_` is reserved for generated ids. */
function nameOf(given: string): string {
  if (jobId.safeParse(given).success && !given.startsWith('job_')) return given
  const message = `id is ${JSON.stringify(given)}; it must be 1 to 64 letters, digits, _ or -, and not begin with "job_".`
  throw new ApiError('invalid_request', message, { param: 'id' })
}

async function cancel(c: Context<EdgeEnv>) {
  const { id } = await findOwnJob(c, 'generate')
  return reply(c, await objectOf(c.env.JOB, id).cancel())
}

/** Asynchronous jobs, for their owner. A job of another account is reported as not found. */
export const jobs = new Hono<EdgeEnv>()
  .get('/', async (c) => {
    const { account } = await requireScope(c)
    const { data, next } = await listJobs(readerOf(c), account, c.req.query())
    return c.json({ object: 'list', data, has_more: next !== null, next_after: next })
  })
  .post('/', (c) => submitJob(c))
  .put('/:id', (c) => submitJob(c, nameOf(c.req.param('id'))))
  .get('/:id', async (c) => {
    const found = await findOwnJob(c, 'read')
    const { seconds, applied } = waitOf(c)
    const isDone = seconds === 0 || isFinal(found)
    const job = isDone ? found : await objectOf(c.env.JOB, found.id).ended(Date.now() + seconds * 1000)
    const body = await viewOf(readerOf(c), job)
    return c.json(body, 200, { ...createServerTiming(job), ...applied })
  })
  .delete('/:id', cancel)
  .post('/:id/cancel', cancel)
  .get('/:id/events', async (c) => {
    const link = c.get('link')
    const job = link ? await findLinkedJob(c, link) : await findOwnJob(c, 'read')
    const isAllowed = () =>
      link
        ? areLinksValid(c.env, job.account, link.key ?? job.keyId)
        : isStillAuthorized(c.env, c.get('credential'), 'read')
    const after = parseLastEventId(c.req.header('last-event-id'))
    // 204 stops an EventSource, which would otherwise reconnect after the last event.
    if (isFinal(job) && after > 0 && (await objectOf(c.env.JOB, job.id).events(after)).length === 0)
      return c.body(null, 204)
    return c.body(await followJob(c.env, job.id, after, isAllowed), 200, {
      'content-type': 'text/event-stream',
      'x-accel-buffering': 'no',
    })
  })

import { type Context, Hono } from 'hono'
import * as z from 'zod'
import { jobId } from '#contract'
import { rateHeaders } from '../accounts/rate-limit-headers.ts'
import { isStillAuthorized, requireScope } from '../auth/auth.ts'
import { areLinksValid } from '../auth/links.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { waitSeconds } from '../http/prefer.ts'
import { parseFields } from '../http/validation.ts'
import { followJob } from '../jobs/follow.ts'
import { type Submission, type Submitted, submit } from '../jobs/generate.ts'
import type { Generation } from '../jobs/generation-request.ts'
import { linkedJob, ownJob } from '../jobs/own-job.ts'
import { isFinal, type JobRecord } from '../jobs/record.ts'
import { readSubmission, waitAsCaller } from '../jobs/submission.ts'
import { listEntryOf, serverTiming, viewOf } from '../jobs/view.ts'
import { objectOf } from '../platform/objects.ts'

export const page = z.strictObject({
  limit: z.coerce.number().int().min(1).max(100).default(20).describe('a whole number from 1 to 100'),
  after: z.string().max(64).optional().describe('the next_after value of another page'),
})

const readerOf = (c: Context<EdgeEnv>) => ({
  ...{ env: c.env, origin: new URL(c.req.url).origin, keyId: c.get('credential').keyId },
})

/** Waits for the job to end, up to the preferred wait, and returns its latest state. `fields` is the request that submitted the job, if any. */
async function waitFor(
  c: Context<EdgeEnv>,
  job: JobRecord,
  fields: Generation | null = null,
): Promise<{ job: JobRecord; applied: Record<string, string> }> {
  const seconds = waitSeconds(c.req.header('prefer'))
  if (seconds === 0) return { job, applied: {} }
  const applied = { 'preference-applied': `wait=${seconds}` }
  if (isFinal(job)) return { job, applied }
  const limitMs = seconds * 1000
  const ended = fields
    ? waitAsCaller(c, fields, job.id, limitMs)
    : objectOf(c.env.JOB, job.id).ended(Date.now() + limitMs)
  return { job: await ended, applied }
}

/** Responds with the job: 200 if it has ended, otherwise 202. */
async function reply(c: Context<EdgeEnv>, job: JobRecord, headers: Record<string, string> = {}, reused = false) {
  const view = await viewOf(readerOf(c), job)
  const body = reused ? { ...view, reused, price_microdollars: 0 } : view
  const open = isFinal(job) ? {} : { 'retry-after': '1' }
  return c.json(body, isFinal(job) ? 200 : 202, { ...open, ...serverTiming(job), ...headers })
}

async function submitted(c: Context<EdgeEnv>, fields: Generation, { job, rates, reused }: Submitted) {
  const waited = await waitFor(c, job, fields)
  const address = { location: `/v1/jobs/${job.id}`, 'x-octet-job': job.id }
  return reply(c, waited.job, { ...address, ...waited.applied, ...rateHeaders(rates) }, reused)
}

/** Submits the job even if the caller disconnects, because a reservation without a job would block its price and slot. */
function submitDetached(c: Context<EdgeEnv>, submission: Submission): Promise<Submitted> {
  const submitting = submit(c.env, submission)
  c.executionCtx.waitUntil(submitting.catch(() => {}))
  return submitting
}

/** Validates a job name from the caller. The prefix `job_` is reserved for generated ids. */
function nameOf(given: string): string {
  if (jobId.safeParse(given).success && !given.startsWith('job_')) return given
  const message = `id is ${JSON.stringify(given)}; it must be 1 to 64 letters, digits, _ or -, and not begin with "job_".`
  throw new ApiError('invalid_request', message, { param: 'id' })
}

/** Parses `Last-Event-ID`; 0 is the start of the log. */
function lastEventId(header: string | undefined): number {
  if (header === undefined || header === '') return 0
  if (/^\d{1,12}$/.test(header)) return Number(header)
  throw new ApiError('invalid_request', `Last-Event-ID is ${JSON.stringify(header)}; it must be the id of an event.`)
}

async function cancel(c: Context<EdgeEnv>) {
  const { id } = await ownJob(c, 'generate')
  return reply(c, await objectOf(c.env.JOB, id).cancel())
}

/** Asynchronous jobs, for their owner. A job of another account is reported as not found. */
export const jobs = new Hono<EdgeEnv>()
  .get('/', async (c) => {
    const { account } = await requireScope(c)
    const { limit, after = null } = parseFields(page, page.shape, c.req.query())
    const jobs = await objectOf(c.env.ACCOUNT, account).recentJobs(limit + 1, after)
    if (!jobs)
      throw new ApiError('invalid_request', `after is "${after}", which is not a job of this account.`, {
        param: 'after',
      })
    const shown = jobs.slice(0, limit)
    const reader = readerOf(c)
    const data = await Promise.all(shown.map((job) => listEntryOf(reader, job)))
    const has_more = jobs.length > limit
    return c.json({ object: 'list', data, has_more, next_after: has_more ? shown.at(-1)!.id : null })
  })
  .post('/', async (c) => {
    const { fields, submission } = await readSubmission(c)
    return submitted(c, fields, await submitDetached(c, submission))
  })
  .put('/:id', async (c) => {
    const { fields, submission } = await readSubmission(c, { name: nameOf(c.req.param('id')) })
    return submitted(c, fields, await submitDetached(c, submission))
  })
  .get('/:id', async (c) => {
    const { job, applied } = await waitFor(c, await ownJob(c, 'read'))
    const body = await viewOf(readerOf(c), job)
    return c.json(body, 200, { ...serverTiming(job), ...applied })
  })
  .delete('/:id', cancel)
  .post('/:id/cancel', cancel)
  .get('/:id/events', async (c) => {
    const link = c.get('link')
    const job = link ? await linkedJob(c, link) : await ownJob(c, 'read')
    const isAllowed = () =>
      link
        ? areLinksValid(c.env, job.account, link.key ?? job.keyId)
        : isStillAuthorized(c.env, c.get('credential'), 'read')
    const after = lastEventId(c.req.header('last-event-id'))
    // 204 stops an EventSource, which would otherwise reconnect after the last event.
    if (isFinal(job) && after > 0 && (await objectOf(c.env.JOB, job.id).events(after)).length === 0)
      return c.body(null, 204)
    return c.body(await followJob(c.env, job.id, after, isAllowed), 200, {
      'content-type': 'text/event-stream',
      'x-accel-buffering': 'no',
    })
  })

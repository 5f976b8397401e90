// Public views of jobs.
import type { Context } from 'hono'
import * as z from 'zod'
import type { JobSpec, JobSummary } from '../accounts/job-spec.ts'
import { signLink } from '../auth/links.ts'
import { configOf } from '../config.ts'
import type { JobView, ListedJob } from '../dialects/definition/public-job.ts'
import { readGpuState } from '../gpu/health.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { parseFields } from '../http/validation.ts'
import { projectJob } from '../jobs/projection.ts'
import { decisionOf, type JobRecord } from '../jobs/record.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { toUnixSeconds } from '../platform/units.ts'
import { createResultUrl, LINK_SECONDS } from '../results/results.ts'
import type { StoredImage } from '../results/stored-image.ts'

/** `origin` is the start of links. Links expire with the key `keyId`; null is the job's own key. */
export type Reader = { env: Env; origin: string; keyId: string | null }

export const readerOf = (c: Context<EdgeEnv>): Reader => ({
  ...{ env: c.env, origin: new URL(c.req.url).origin, keyId: c.get('credential').keyId },
})

async function describeImage({ env, origin, keyId }: Reader, job: string, { key, ...facts }: StoredImage) {
  return { ...facts, url: await createResultUrl(env, origin, job, { ...facts, key }, undefined, keyId) }
}

/** Returns a signed link to a job's event stream, valid for an hour. */
async function createEventsUrl({ env, origin, keyId }: Reader, job: string): Promise<string> {
  const expires = Math.floor(Date.now() / 1000) + LINK_SECONDS
  const link = { path: `/v1/jobs/${job}/events`, expires, key: keyId }
  return `${origin}${await signLink(configOf(env).peppers, link)}`
}

/** The job resource. */
export async function viewOf(reader: Reader, job: JobRecord): Promise<JobView> {
  const { images, ...facts } = projectJob(job)
  return {
    ...facts,
    progress: job.progress,
    events_url: await createEventsUrl(reader, job.id),
    gpu: job.waiting ? await readGpuState(reader.env, job.decision.endpoint) : null,
    images: await Promise.all(images.map((image) => describeImage(reader, job.id, image))),
  }
}

/** An entry of a list: a settled job as in `viewOf`, without receipts; an open job with its request's fields. */
export async function listEntryOf(reader: Reader, listed: JobSummary | JobSpec): Promise<ListedJob> {
  if (!('state' in listed)) {
    const { id, name, created, request } = listed
    return {
      ...{ id, object: 'job' as const, name, state: 'in_progress', created: toUnixSeconds(created), finished: null },
      ...decisionOf(listed),
      ...{ size: `${request.width}x${request.height}`, images: [], price_microdollars: 0 },
    }
  }
  const { created, finished, cancelRequested, images, price, ...facts } = listed
  return {
    ...{ object: 'job' as const, ...facts, created: toUnixSeconds(created), finished: toUnixSeconds(finished) },
    cancel_requested: cancelRequested,
    images: await Promise.all(images.map((image) => describeImage(reader, listed.id, image))),
    price_microdollars: price,
  }
}

export const page = z.strictObject({
  limit: z.coerce.number().int().min(1).max(100).default(20).describe('a whole number from 1 to 100'),
  after: z.string().max(64).optional().describe('the next_after value of another page'),
})

/** A page of an account's jobs, newest first. `next` is the `after` of the next page. Errors: invalid_request. */
export async function listJobs(
  reader: Reader,
  account: string,
  fields: Record<string, unknown>,
): Promise<{ data: ListedJob[]; next: string | null }> {
  const { limit, after = null } = parseFields(page, page.shape, fields)
  const jobs = await objectOf(reader.env.ACCOUNT, account).recentJobs(limit + 1, after)
  if (!jobs) {
    const message = `after is "${after}", which is not a job of this account.`
    throw new ApiError('invalid_request', message, { param: 'after' })
  }
  const shown = jobs.slice(0, limit)
  const data = await Promise.all(shown.map((job) => listEntryOf(reader, job)))
  return { data, next: jobs.length > limit ? shown.at(-1)!.id : null }
}

/** `Server-Timing` in milliseconds: the wait for a GPU, the GPU function's own times, and the total. */
export function createServerTiming({ created, accepted, finished, timings }: JobRecord): Record<string, string> {
  const seconds: [string, number][] = [
    ...(accepted === null ? [] : [['wait', (accepted - created) / 1000] as [string, number]]),
    ...Object.entries(timings ?? {}).filter(([name]) => name !== 'total'),
    ...(finished === null ? [] : [['total', (finished - created) / 1000] as [string, number]]),
  ]
  if (seconds.length === 0) return {}
  return { 'server-timing': seconds.map(([name, value]) => `${name};dur=${Math.round(value * 1000)}`).join(', ') }
}

// Public views of a job.

import type { JobSpec, JobSummary } from '../accounts/job-spec.ts'
import { signLink } from '../auth/links.ts'
import { configOf } from '../config.ts'
import type { JobView } from '../dialects/public-job.ts'
import { gpuState } from '../gpu/health.ts'
import { unixSeconds } from '../platform/units.ts'
import { LINK_SECONDS, resultUrl } from '../results/results.ts'
import type { StoredImage } from '../results/stored-image.ts'
import { projectJob } from './projection.ts'
import { decisionOf, type JobRecord } from './record.ts'

/** A final job's fields for lists. The account stores them in its ledger row, so that a list needs no calls to job objects. */
export function summaryOf(job: JobRecord): JobSummary {
  const { object: _, cancel_requested, price_microdollars, images, ...facts } = projectJob(job)
  return {
    ...facts,
    ...{ created: job.created, finished: job.finished, cancelRequested: cancel_requested, price: price_microdollars },
    images: images.map(({ receipt: _, ...image }) => image),
  }
}

/** `origin` is the start of links. Links expire with the key `keyId`; null is the job's own key. */
export type Reader = { env: Env; origin: string; keyId: string | null }

async function describeImage({ env, origin, keyId }: Reader, job: string, { key, ...facts }: StoredImage) {
  return { ...facts, url: await resultUrl(env, origin, job, { ...facts, key }, undefined, keyId) }
}

/** Returns a signed link to a job's event stream, valid for an hour. */
async function eventsUrl({ env, origin, keyId }: Reader, job: string): Promise<string> {
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
    events_url: await eventsUrl(reader, job.id),
    gpu: job.waiting ? await gpuState(reader.env, job.decision.endpoint) : null,
    images: await Promise.all(images.map((image) => describeImage(reader, job.id, image))),
  }
}

/** An entry of a list: a settled job as in `viewOf`, without receipts; an open job with its request's fields. */
export async function listEntryOf(reader: Reader, listed: JobSummary | JobSpec) {
  if (!('state' in listed)) {
    const { id, name, created, request } = listed
    return {
      ...{ id, object: 'job', name, state: 'in_progress', created: unixSeconds(created), finished: null },
      ...decisionOf(listed),
      ...{ size: `${request.width}x${request.height}`, images: [], price_microdollars: 0 },
    }
  }
  const { created, finished, cancelRequested, images, price, ...facts } = listed
  return {
    ...{ object: 'job', ...facts, created: unixSeconds(created), finished: unixSeconds(finished) },
    cancel_requested: cancelRequested,
    images: await Promise.all(images.map((image) => describeImage(reader, listed.id, image))),
    price_microdollars: price,
  }
}

/** `Server-Timing` in milliseconds: the wait for a GPU, the GPU function's own times, and the total. */
export function serverTiming({ created, accepted, finished, timings }: JobRecord): Record<string, string> {
  const seconds: [string, number][] = [
    ...(accepted === null ? [] : [['wait', (accepted - created) / 1000] as [string, number]]),
    ...Object.entries(timings ?? {}).filter(([name]) => name !== 'total'),
    ...(finished === null ? [] : [['total', (finished - created) / 1000] as [string, number]]),
  ]
  if (seconds.length === 0) return {}
  return { 'server-timing': seconds.map(([name, value]) => `${name};dur=${Math.round(value * 1000)}`).join(', ') }
}

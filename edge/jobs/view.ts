// Public views of a job.

import type { JobSpec, JobSummary } from '../accounts/job-spec.ts'
import { gpuState } from '../gpu/warm.ts'
import { resultUrl, type StoredImage } from '../results/results.ts'
import { costOf, decisionOf, type JobRecord, warningsOf } from './record.ts'

const unixSeconds = (milliseconds: number | null) => (milliseconds === null ? null : Math.floor(milliseconds / 1000))

/** A final job's fields for lists. The account stores them in its ledger row, so that a list needs no calls to job objects. */
export function summaryOf(job: JobRecord): JobSummary {
  const { id, name, state, created, finished, attempt, cancelRequested, warnings, timings, error } = job
  return {
    ...{ id, name, state, created, finished, attempt, cancelRequested, error, timings },
    ...decisionOf(job),
    size: `${job.request.width}x${job.request.height}`,
    images: state === 'succeeded' ? job.images.map(({ receipt: _, ...image }) => image) : [],
    warnings: warningsOf({ request: job.request, warnings }),
    price: costOf(job),
  }
}

/** `origin` is the start of links. Links expire with the key `keyId`; null is the job's own key. */
export type Reader = { env: Env; origin: string; keyId: string | null }

async function describeImage({ env, origin, keyId }: Reader, job: string, { key, ...facts }: StoredImage) {
  return { ...facts, url: await resultUrl(env, origin, job, { ...facts, key }, undefined, keyId) }
}

/** The job resource. Images are included once the job has succeeded. */
export async function viewOf(reader: Reader, job: JobRecord) {
  const { id, name, state, created, finished, attempt, progress, waiting, cancelRequested, timings, error } = job
  return {
    ...{
      id,
      object: 'job',
      name,
      state,
      created: unixSeconds(created),
      finished: unixSeconds(finished),
      attempt,
      progress,
    },
    gpu: waiting ? await gpuState(reader.env, job.decision.endpoint) : null,
    cancel_requested: cancelRequested,
    ...decisionOf(job),
    size: `${job.request.width}x${job.request.height}`,
    images: state === 'succeeded' ? await Promise.all(job.images.map((image) => describeImage(reader, id, image))) : [],
    ...{ warnings: warningsOf(job), timings, error, price_microdollars: costOf(job) },
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

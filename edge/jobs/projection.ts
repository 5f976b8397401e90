import type { JobSummary } from '../accounts/job-spec.ts'
import type { PublicJob } from '../dialects/definition/public-job.ts'
import { toUnixSeconds } from '../platform/units.ts'
import { chargeOf, decisionOf, type JobRecord, warningsOf } from './record.ts'

/** The public representation of a job. */
export function projectJob(job: JobRecord): PublicJob {
  const { id, name, state, created, finished, attempt, cancelRequested, timings, error, request } = job
  return {
    ...{ id, object: 'job', name, state, attempt, timings, error },
    created: toUnixSeconds(created),
    finished: toUnixSeconds(finished),
    cancel_requested: cancelRequested,
    ...decisionOf(job),
    size: `${request.width}x${request.height}`,
    images: state === 'succeeded' ? job.images.toSorted((a, b) => a.image - b.image) : [],
    warnings: warningsOf(job),
    price_microdollars: chargeOf(job),
  }
}

/** A final job's fields for lists. The account stores them in its ledger row, so that a list needs no calls to job objects. */
export function summaryOf(job: JobRecord): JobSummary {
  const { object: _, cancel_requested, price_microdollars, images, ...facts } = projectJob(job)
  return {
    ...facts,
    ...{ created: job.created, finished: job.finished, cancelRequested: cancel_requested, price: price_microdollars },
    images: images.map(({ receipt: _, ...image }) => image),
  }
}

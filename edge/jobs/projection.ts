import type { PublicJob } from '../dialects/public-job.ts'
import { unixSeconds } from '../platform/units.ts'
import { chargeOf, decisionOf, type JobRecord, warningsOf } from './record.ts'

/** The public representation of a job. */
export function projectJob(job: JobRecord): PublicJob {
  const { id, name, state, created, finished, attempt, cancelRequested, timings, error, request } = job
  return {
    ...{ id, object: 'job', name, state, attempt, timings, error },
    created: unixSeconds(created),
    finished: unixSeconds(finished),
    cancel_requested: cancelRequested,
    ...decisionOf(job),
    size: `${request.width}x${request.height}`,
    images: state === 'succeeded' ? job.images.toSorted((a, b) => a.image - b.image) : [],
    warnings: warningsOf(job),
    price_microdollars: chargeOf(job),
  }
}

import type { Problem } from '../http/errors.ts'
import type { ImageFile, JobEvent, PublicJob } from './public-job.ts'

/** The API of another provider for the same jobs. It is pure: the route, the job and its webhooks call it. */
export type Dialect = {
  /** Stored in the dialect's jobs. */
  name: string
  /** POST submits a job and waits for its images. */
  path: string
  /** The fields of the native request (jobs/generation-request.ts) for a body without null fields. They are validated afterward. */
  parse(body: Record<string, unknown>): Record<string, unknown>
  /** The reply of a succeeded job. `files` are in the order of its images. `reused`: an earlier job, free of charge. */
  render(job: PublicJob, files: readonly ImageFile[], reused: boolean): unknown
  /** The body of an error; by default the native problem document. */
  error?(problem: Problem): object
  /** The payload of a webhook; by default the native event. */
  webhook?(event: JobEvent): JobEvent
}

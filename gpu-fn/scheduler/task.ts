// The scheduler's record of a job.

/** How a job is scheduled. */
export type Terms = {
  /** An opaque name of the account that pays for the job. */
  tenant: string
  /** The tenant's share of the device relative to other tenants. */
  weight: number
  /** Whether a caller waits for the image, which takes few steps. */
  interactive: boolean
}

/** Times are milliseconds of one monotonic clock. */
export type Task = Terms & {
  readonly id: string
  /** The loaded state that the job needs, such as its package and adapters. Changing it costs time. */
  readonly group: string
  readonly arrived: number
  /** The time by which the job should have ended. */
  readonly deadline: number | null
  /** Estimated device time until the job ends, in milliseconds. */
  left: number
  /** Whether the job has run on the device. */
  started: boolean
}

import type { JobErrorCode } from '../contract.ts'

/** The failure of a job. Callers receive `message`; `cause` is for the log. */
export class JobError extends Error {
  override name = 'JobError' as const
  readonly code: JobErrorCode

  constructor(code: JobErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** Messages for callers about faults of the service; the cause is logged only. */
const FAULTS = {
  internal: 'The image could not be made because of a fault in the service. The same request may be sent again.',
  model_not_available: 'The model could not be opened on this server.',
  out_of_memory: 'The server ran out of memory for this request. A smaller width, height or count may fit.',
} as const

export function createJobFault(code: keyof typeof FAULTS, cause: unknown): JobError {
  return new JobError(code, FAULTS[code], { cause })
}

import { ApiError } from './errors.ts'

/** Parses `Last-Event-ID`; 0 is the start of the log. Errors: invalid_request. */
export function parseLastEventId(header: string | undefined): number {
  if (header === undefined || header === '') return 0
  if (/^\d{1,12}$/.test(header)) return Number(header)
  throw new ApiError('invalid_request', `Last-Event-ID is ${JSON.stringify(header)}; it must be the id of an event.`)
}

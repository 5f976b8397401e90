import type { Warning } from '../../routing/decision.ts'

/** The longest header, because warnings quote the request. */
const MAX_CHARACTERS = 1000

/** A header with the warnings of a job, for replies without another place for them. Empty if there are none. */
export function createWarningHeader(warnings: readonly Pick<Warning, 'message'>[]): Record<string, string> {
  const text = warnings.map(({ message }) => message).join(' ')
  // A header has ASCII only.
  const ascii = text.slice(0, MAX_CHARACTERS).replace(/[^\x20-\x7e]/g, '?')
  return ascii === '' ? {} : { 'x-octet-warning': ascii }
}

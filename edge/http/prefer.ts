// `Prefer: wait` (RFC 7240): how long a request waits for an asynchronous job.

/** The maximum wait. Many clients and proxies time out idle connections soon after. */
export const MAX_WAIT_SECONDS = 60

/** Returns the seconds to wait: 0 if the preference is missing or malformed, the maximum if it has no value. The first `wait` counts. */
export function waitSeconds(header: string | undefined): number {
  const preferences = (header ?? '').split(/[,;]/).map((each) => each.split('=').map((part) => part.trim()))
  const wait = preferences.find(([name]) => name?.toLowerCase() === 'wait')
  if (!wait) return 0
  if (wait.length === 1) return MAX_WAIT_SECONDS
  const [, seconds] = /^"?(\d{1,9})"?$/.exec(wait.slice(1).join('=')) ?? []
  return seconds === undefined ? 0 : Math.min(MAX_WAIT_SECONDS, Number(seconds))
}

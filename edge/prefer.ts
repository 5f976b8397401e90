// `Prefer: wait` of RFC 7240: how long a caller waits for a job that runs on its own.

/** Longer waits are cut to this; clients and proxies give up on silent connections soon after. */
const MOST_SECONDS = 60

/** Seconds to wait: 0 without the preference or with a malformed one, the most for one without a number. The first one counts. */
export function waitSeconds(header: string | undefined): number {
  const preferences = (header ?? '').split(/[,;]/).map((each) => each.split('=').map((part) => part.trim()))
  const wait = preferences.find(([name]) => name?.toLowerCase() === 'wait')
  if (!wait) return 0
  if (wait.length === 1) return MOST_SECONDS
  const [, seconds] = /^"?(\d{1,9})"?$/.exec(wait.slice(1).join('=')) ?? []
  return seconds === undefined ? 0 : Math.min(MOST_SECONDS, Number(seconds))
}

// `Prefer: wait` of RFC 7240: how long a caller would wait for a job that runs on its own.

/** Longer waits are cut to this; clients and proxies give up on silent connections soon after. */
const MOST_SECONDS = 60

/** Seconds to wait: 0 without the preference, the most for one that names no number. */
export function waitSeconds(header: string | undefined): number {
  const [found, seconds] = /(?:^|[,;\s])wait\s*(?:=\s*"?(\d{1,9})"?)?\s*(?=$|[,;])/i.exec(header ?? '') ?? []
  if (found === undefined) return 0
  return seconds === undefined ? MOST_SECONDS : Math.min(MOST_SECONDS, Number(seconds))
}

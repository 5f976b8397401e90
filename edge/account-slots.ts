// How many jobs of an account run at an endpoint at once. Every active account has an equal share of the endpoint's slots (GPU_SLOTS), so
// that one account's flood waits in its own line and not in front of other accounts. Jobs beyond the share wait in the ledger.
import * as z from 'zod'

const slots = z.coerce.number().int().min(1).max(100_000)

/** Reads GPU_SLOTS, the jobs that an endpoint has in progress and in its own queue at once. Throws when it is no whole number from 1. */
export function readSlots({ GPU_SLOTS: given }: { GPU_SLOTS: string }): number {
  const parsed = slots.safeParse(given)
  if (parsed.success) return parsed.data
  throw new Error(`GPU_SLOTS is ${JSON.stringify(given)}; it must be a whole number from 1 to 100000.`)
}

/** Without a job for this long an account no longer counts as active. */
const ACTIVE_MS = 30_000

/** The accounts with jobs at one endpoint. A restart loses them, which costs fairness for seconds and nothing else. */
export class ActiveAccounts {
  readonly #seen = new Map<string, number>()

  /** Marks an account as active and returns its share of `slots`, at least one. */
  shareOf(account: string, slots: number, now: number): number {
    for (const [name, at] of this.#seen) if (now - at > ACTIVE_MS) this.#seen.delete(name)
    this.#seen.set(account, now)
    return Math.max(1, Math.floor(slots / this.#seen.size))
  }
}

/** How long a share holds before the account asks for it again. */
const FRESH_MS = 3_000

/** The shares of one account, as its endpoints last granted them. Until an endpoint has answered, its share is one. */
export class Shares {
  readonly #known = new Map<string, { share: number; at: number }>()

  of(endpoint: string): number {
    return this.#known.get(endpoint)?.share ?? 1
  }

  /** Whether the share must be asked for again; true once until `set`, or until that request had its time. */
  isStale(endpoint: string, now: number): boolean {
    const known = this.#known.get(endpoint)
    if (known && now - known.at < FRESH_MS) return false
    this.#known.set(endpoint, { share: known?.share ?? 1, at: now })
    return true
  }

  set(endpoint: string, share: number, now: number): void {
    this.#known.set(endpoint, { share, at: now })
  }
}

const COUNT = "SELECT count(*) AS n FROM ledger WHERE state = 'reserved' AND granted = 1 AND endpoint = ?"
const FIRST = `SELECT job FROM ledger WHERE state = 'reserved' AND granted = 0 AND endpoint = ? ORDER BY rowid LIMIT ?`

const inProgress = (sql: SqlStorage, endpoint: string) => sql.exec<{ n: number }>(COUNT, endpoint).one().n

/** Whether a new job may start at once. */
export const hasFreeSlot = (sql: SqlStorage, endpoint: string, share: number): boolean =>
  inProgress(sql, endpoint) < share

/** Grants the free slots of an endpoint to the jobs that have waited longest, and returns these. */
export function grantSlots(sql: SqlStorage, endpoint: string, share: number): string[] {
  const free = share - inProgress(sql, endpoint)
  if (free <= 0) return []
  const jobs = sql
    .exec<{ job: string }>(FIRST, endpoint, free)
    .toArray()
    .map(({ job }) => job)
  for (const job of jobs) sql.exec('UPDATE ledger SET granted = 1 WHERE job = ?', job)
  return jobs
}

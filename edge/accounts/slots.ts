// Limits the concurrent jobs of an account at an endpoint. Every active account gets an equal share of the endpoint's slots (GPU_SLOTS), so
// that a burst from one account queues behind its own jobs and does not delay other accounts. Jobs beyond the share wait in the ledger.
import * as z from 'zod'

const slots = z.coerce.number().int().min(1).max(100_000)

/** Parses GPU_SLOTS, the maximum number of running and queued jobs per endpoint. Throws if it is not an integer from 1 to 100000. */
export function readSlots({ GPU_SLOTS: given }: { GPU_SLOTS: string }): number {
  const parsed = slots.safeParse(given)
  if (parsed.success) return parsed.data
  throw new Error(`GPU_SLOTS is ${JSON.stringify(given)}; it must be a whole number from 1 to 100000.`)
}

/** An account without a job for this long is inactive. */
const ACTIVE_MS = 30_000

/** The accounts with jobs at one endpoint. Kept in memory only; a restart affects fairness for a few seconds. */
export class ActiveAccounts {
  readonly #seen = new Map<string, number>()

  /** Marks an account as active and returns its share of `slots`, at least one. */
  shareOf(account: string, slots: number, now: number): number {
    for (const [name, at] of this.#seen) if (now - at > ACTIVE_MS) this.#seen.delete(name)
    this.#seen.set(account, now)
    return Math.max(1, Math.floor(slots / this.#seen.size))
  }
}

/** How long a share is cached before the account requests it again. */
const FRESH_MS = 3_000

/** The cached shares of one account by endpoint. The share is 1 until the endpoint responds. */
export class Shares {
  readonly #cached = new Map<string, { share: number; at: number }>()

  of(endpoint: string): number {
    return this.#cached.get(endpoint)?.share ?? 1
  }

  /** Whether the share must be refreshed. A true result also starts a new FRESH_MS period, so that only one refresh is in flight. */
  isStale(endpoint: string, now: number): boolean {
    const cached = this.#cached.get(endpoint)
    if (cached && now - cached.at < FRESH_MS) return false
    this.#cached.set(endpoint, { share: cached?.share ?? 1, at: now })
    return true
  }

  set(endpoint: string, share: number, now: number): void {
    this.#cached.set(endpoint, { share, at: now })
  }
}

const COUNT = "SELECT count(*) AS n FROM ledger WHERE state = 'reserved' AND granted = 1 AND endpoint = ?"
const FIRST = `SELECT job FROM ledger WHERE state = 'reserved' AND granted = 0 AND endpoint = ? ORDER BY rowid LIMIT ?`

const inProgress = (sql: SqlStorage, endpoint: string) => sql.exec<{ n: number }>(COUNT, endpoint).one().n

/** Whether a new job may start immediately. */
export const hasFreeSlot = (sql: SqlStorage, endpoint: string, share: number): boolean =>
  inProgress(sql, endpoint) < share

/** Grants the free slots of an endpoint to the longest-waiting jobs and returns their ids. */
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

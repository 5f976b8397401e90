// The queue for an endpoint's slots (GPU_SLOTS): which job is sent to the GPU next. Each slot is one GPU; the rest of the jobs wait here,
// because a job that waits at the GPU can no longer be overtaken by one of an account that used less.
import * as z from 'zod'

const slots = z.coerce.number().int().min(1).max(100_000)

/** Parses GPU_SLOTS, the number of jobs that an endpoint's GPUs run at a time. Throws if it is not an integer from 1 to 100000. */
export function readSlots({ GPU_SLOTS: given }: { GPU_SLOTS: string }): number {
  const parsed = slots.safeParse(given)
  if (parsed.success) return parsed.data
  throw new Error(`GPU_SLOTS is ${JSON.stringify(given)}; it must be a whole number from 1 to 100000.`)
}

/** The half-life of an account's usage: a burst no longer counts after a few minutes. */
const HALF_LIFE_MS = 60_000
/** Usage below this counts as none. */
const NEGLIGIBLE_MS = 1

/** `since` and `renewed` are Unix milliseconds. */
type Entry = { account: string; since: number; renewed: number }

/**
 * Grants slots to the job of the account with the least recent usage, the oldest first. Usage is the time that jobs held slots, halved every
 * minute. The queue is kept in memory: jobs renew their entries, so it fills again after a restart.
 */
export class SlotQueue {
  readonly #leaseMs: number
  /** Both by job id, oldest first. */
  readonly #waiting = new Map<string, Entry>()
  readonly #holding = new Map<string, Entry>()
  /** Usage in milliseconds at a time, by account. */
  readonly #usage = new Map<string, { ms: number; at: number }>()

  /** An entry that is not renewed within `leaseMs` is dropped. */
  constructor(leaseMs: number) {
    this.#leaseMs = leaseMs
  }

  /** Adds a job to the queue, or renews its entry. */
  enter(job: string, account: string, now: number): void {
    const entry = this.#holding.get(job) ?? this.#waiting.get(job)
    if (entry) entry.renewed = now
    else this.#waiting.set(job, { account, since: now, renewed: now })
  }

  /** Adds a job that is already running, or renews its entry. */
  resume(job: string, account: string, now: number): void {
    const entry = this.#holding.get(job)
    if (entry) entry.renewed = now
    else this.#hold(job, account, now)
  }

  /** Removes a job. */
  leave(job: string, now: number): void {
    this.#waiting.delete(job)
    const entry = this.#holding.get(job)
    if (!entry) return
    this.#holding.delete(job)
    this.#usage.set(entry.account, { ms: this.#usageOf(entry.account, now) + now - entry.since, at: now })
    for (const account of this.#usage.keys())
      if (this.#usageOf(account, now) < NEGLIGIBLE_MS) this.#usage.delete(account)
  }

  holds(job: string): boolean {
    return this.#holding.has(job)
  }

  /** Grants the free ones of `slots` and returns the ids of their jobs. */
  grant(slots: number, now: number): string[] {
    for (const [job, entry] of this.#holding) if (this.#isExpired(entry, now)) this.leave(job, now)
    const granted: string[] = []
    while (this.#holding.size < slots) {
      const next = this.#next(now)
      if (next === null) break
      this.#hold(next.job, next.account, now)
      granted.push(next.job)
    }
    return granted
  }

  #hold(job: string, account: string, now: number): void {
    this.#waiting.delete(job)
    this.#holding.set(job, { account, since: now, renewed: now })
  }

  /** The oldest job of the account with the least usage, running jobs included. */
  #next(now: number): { job: string; account: string } | null {
    const running = new Map<string, number>()
    for (const { account, since } of this.#holding.values())
      running.set(account, (running.get(account) ?? 0) + now - since + NEGLIGIBLE_MS)
    const usages = new Map<string, number>()
    let best: { job: string; account: string; usage: number } | null = null
    for (const [job, entry] of this.#waiting) {
      const { account } = entry
      if (this.#isExpired(entry, now)) this.#waiting.delete(job)
      // Only the oldest job of each account is a candidate.
      if (usages.has(account) || !this.#waiting.has(job)) continue
      const usage = this.#usageOf(account, now) + (running.get(account) ?? 0)
      usages.set(account, usage)
      if (best === null || usage < best.usage) best = { job, account, usage }
    }
    return best
  }

  #usageOf(account: string, now: number): number {
    const used = this.#usage.get(account)
    return used ? used.ms * 2 ** ((used.at - now) / HALF_LIFE_MS) : 0
  }

  #isExpired({ renewed }: Entry, now: number): boolean {
    return now - renewed > this.#leaseMs
  }
}

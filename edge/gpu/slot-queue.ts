// The queue for an endpoint's slots (GPU_SLOTS): which job is sent to the GPU next. Each slot is one GPU. All other jobs wait here and not at
// the GPU, so that a new job of a light user still goes before the queued jobs of a heavy one.
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
/** Accounts below this usage are all alike. */
const LIGHT_MS = 500
/** Each usage class covers four times the usage of the one below, because small differences must not reorder jobs. */
const CLASS_RATIO = 4

/** Times are Unix milliseconds. `round` is the job's turn: one job of each account per round. */
type Entry = { account: string; round: number; since: number; renewed: number }
/** `ms` is the usage at the time `at`, `round` that of the account's newest job. */
type Account = { ms: number; at: number; round: number }

/**
 * Grants slots to the accounts in the lowest class of recent usage, in turn (start-time fair queuing by Goyal, Vin and Cheng, 1996, with a
 * cost of one for each job), and to the oldest job first. Usage is the time that jobs held slots. The queue is kept in memory; after a restart,
 * the renewals of its jobs fill it again.
 */
export class SlotQueue {
  readonly #leaseMs: number
  /** Both by job id, oldest first. */
  readonly #waiting = new Map<string, Entry>()
  readonly #holding = new Map<string, Entry>()
  readonly #accounts = new Map<string, Account>()
  /** The round of the job that was granted a slot last. */
  #round = 0

  /** An entry that is not renewed within `leaseMs` is dropped. */
  constructor(leaseMs: number) {
    this.#leaseMs = leaseMs
  }

  /** Adds a job to the queue, or renews its entry. */
  enter(job: string, account: string, now: number): void {
    const entry = this.#holding.get(job) ?? this.#waiting.get(job)
    if (entry) entry.renewed = now
    else this.#waiting.set(job, { account, round: this.#nextRound(account), since: now, renewed: now })
  }

  /** Adds a job that is already running, or renews its entry. */
  resume(job: string, account: string, now: number): void {
    this.enter(job, account, now)
    const entry = this.#waiting.get(job)
    if (entry) this.#hold(job, entry, now)
  }

  /** Removes a job. */
  leave(job: string, now: number): void {
    this.#waiting.delete(job)
    const entry = this.#holding.get(job)
    if (!entry) return
    this.#holding.delete(job)
    const account = this.#accountOf(entry.account)
    account.ms = decay(account, now) + now - entry.since
    account.at = now
    for (const [name, each] of this.#accounts)
      if (each.round < this.#round && decay(each, now) < 1) this.#accounts.delete(name)
  }

  holds(job: string): boolean {
    return this.#holding.has(job)
  }

  /** Frees the slots of jobs that have not renewed them, and returns their ids. */
  expire(now: number): string[] {
    const expired = [...this.#holding].filter(([, entry]) => this.#isExpired(entry, now)).map(([job]) => job)
    for (const job of expired) this.leave(job, now)
    return expired
  }

  /** Grants the free ones of `slots` and returns the ids of their jobs. */
  grant(slots: number, now: number): string[] {
    const granted: string[] = []
    while (this.#holding.size < slots) {
      const next = this.#next(now)
      if (!next) break
      const [job, entry] = next
      this.#round = Math.max(this.#round, entry.round)
      this.#hold(job, entry, now)
      granted.push(job)
    }
    return granted
  }

  #accountOf(name: string): Account {
    const known = this.#accounts.get(name)
    if (known) return known
    const account = { ms: 0, at: 0, round: -1 }
    this.#accounts.set(name, account)
    return account
  }

  #nextRound(name: string): number {
    const account = this.#accountOf(name)
    account.round = Math.max(this.#round, account.round + 1)
    return account.round
  }

  #hold(job: string, entry: Entry, now: number): void {
    this.#waiting.delete(job)
    this.#holding.set(job, { ...entry, since: now, renewed: now })
  }

  /** The first waiting job by usage class, round and age. */
  #next(now: number): [job: string, entry: Entry] | null {
    const classes = this.#usageClasses(now)
    let first: { job: string; entry: Entry; usageClass: number } | null = null
    for (const [job, entry] of this.#waiting) {
      if (this.#isExpired(entry, now)) {
        this.#waiting.delete(job)
        continue
      }
      const usageClass = classes.get(entry.account) ?? 0
      const lead = first ? usageClass - first.usageClass || entry.round - first.entry.round : -1
      if (lead < 0) first = { job, entry, usageClass }
    }
    return first && [first.job, first.entry]
  }

  /** The usage class of each account, including its running jobs. */
  #usageClasses(now: number): Map<string, number> {
    const usage = new Map<string, number>()
    for (const [name, account] of this.#accounts) usage.set(name, decay(account, now))
    for (const { account, since } of this.#holding.values()) usage.set(account, (usage.get(account) ?? 0) + now - since)
    const classOf = (ms: number) => Math.floor(Math.log(Math.max(1, ms / LIGHT_MS)) / Math.log(CLASS_RATIO))
    return new Map([...usage].map(([name, ms]) => [name, classOf(ms)]))
  }

  #isExpired({ renewed }: Entry, now: number): boolean {
    return now - renewed > this.#leaseMs
  }
}

const decay = ({ ms, at }: Account, now: number) => ms * 2 ** ((at - now) / HALF_LIFE_MS)

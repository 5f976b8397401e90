// The queue for an endpoint's slots: GPU_SLOTS GPUs with GPU_SHARING jobs each. Further jobs wait here rather than at the GPU, so that a new
// job of a light user precedes the queued jobs of a heavy one. Among the jobs with a slot, the GPU function decides before every step.
import type { GpuSlots } from '../config/gpu.ts'

/** The half-life of an account's usage: a burst no longer counts after a few minutes. */
const HALF_LIFE_MS = 60_000
/** Lower usage is dropped. */
const NEGLIGIBLE_MS = 50
/** An account is heavy above this multiple of the reference usage, which is the mean or a share of the largest. A lower one would demote regular users by chance. */
const HEAVY = 1.25
/** Minimum of the reference, relative to the largest usage. With the mean alone, many small accounts would make regular ones heavy. */
const LARGEST_SHARE = 0.6
/** Jobs of an account per round. With only one, the jobs of light users would often be reordered for no gain. */
const JOBS_PER_ROUND = 3
/**
 * The longest time without a grant for an account with waiting jobs. After it, the account's next job counts as an interactive one of a
 * light account.
 */
const STARVATION_MS = 30_000

/** Times are Unix milliseconds. */
type Entry = Terms & { round: number; since: number; renewed: number }
/** `interactive`: whether a caller waits for the job, which takes few steps. `created`: creation time of the job in Unix milliseconds. */
export type Terms = { account: string; interactive: boolean; created: number }
/** `ms` is the usage at the time `at`. `turn` counts the account's jobs; turns 0 to 2 are in round 0, and so on. `granted` is the last grant. */
type Account = { ms: number; at: number; turn: number; granted: number }

/**
 * Grants slots to jobs of light and starving accounts before jobs of heavy ones, then to interactive jobs, then by round, then by age. The
 * rounds are start-time fair queuing (Goyal, Vin and Cheng, 1996) with jobs as the cost. Usage is the time that jobs held slots. The queue
 * is kept in memory; after a restart, the renewals of its jobs fill it again. Jobs of equal account and interactivity are granted slots in
 * order of creation, so that a job keeps its place after a restart or a lost attempt.
 */
export class SlotQueue {
  readonly #leaseMs: number
  /** Waiting and running jobs by id, oldest first. */
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
  enter(job: string, terms: Terms, now: number): void {
    const entry = this.#holding.get(job) ?? this.#waiting.get(job)
    if (entry) entry.renewed = now
    else this.#waiting.set(job, { ...terms, round: this.#nextRound(terms.account, now), since: now, renewed: now })
  }

  /** Adds a job that is already running, or renews its entry. */
  resume(job: string, terms: Terms, now: number): void {
    this.enter(job, terms, now)
    const entry = this.#waiting.get(job)
    if (entry) this.#hold(job, entry, now)
  }

  /** Removes a job. */
  leave(job: string, now: number): void {
    this.#withdraw(job)
    const entry = this.#holding.get(job)
    if (!entry) return
    this.#holding.delete(job)
    const account = this.#accounts.get(entry.account) ?? { ms: 0, at: now, turn: -1, granted: entry.since }
    this.#accounts.set(entry.account, { ...account, ms: decay(account, now) + now - entry.since, at: now })
    for (const [name, each] of this.#accounts)
      if (each.turn < this.#round * JOBS_PER_ROUND && decay(each, now) < NEGLIGIBLE_MS) this.#accounts.delete(name)
  }

  isEmpty(): boolean {
    return this.#waiting.size === 0 && this.#holding.size === 0
  }

  hasSlot(job: string): boolean {
    return this.#holding.has(job)
  }

  /** Frees the slots of jobs that have not renewed them, and returns their ids. */
  expire(now: number): string[] {
    const expired = [...this.#holding].filter(([, entry]) => this.#isExpired(entry, now)).map(([job]) => job)
    for (const job of expired) this.leave(job, now)
    return expired
  }

  /**
   * Grants free slots and returns the ids of their jobs. An account has at most one slot more than there are GPUs, so that its next job is
   * already at the GPU when one ends. A heavy account has at most one slot per GPU. The other slots are for jobs that may preempt these.
   */
  grant({ gpus, sharing }: GpuSlots, now: number): string[] {
    const granted: string[] = []
    if (this.#holding.size < gpus * sharing)
      for (const [job, entry] of this.#waiting) if (this.#isExpired(entry, now)) this.#withdraw(job)
    while (this.#holding.size < gpus * sharing) {
      const next = this.#next(gpus, now)
      if (!next) break
      const [job, entry] = next
      this.#round = Math.max(this.#round, entry.round)
      this.#hold(job, entry, now)
      granted.push(job)
    }
    return granted
  }

  /** A new account starts at the mean usage, because credit for past idleness would let its burst delay regular users. */
  #accountOf(name: string, now: number): Account {
    const existing = this.#accounts.get(name)
    if (existing) return existing
    const account = { ms: meanOf(this.#usage(now)), at: now, turn: -1, granted: now }
    this.#accounts.set(name, account)
    return account
  }

  #nextRound(name: string, now: number): number {
    const account = this.#accountOf(name, now)
    account.turn = Math.max(this.#round * JOBS_PER_ROUND, account.turn + 1)
    return Math.floor(account.turn / JOBS_PER_ROUND)
  }

  /**
   * Removes a waiting job. Its turn passes to the job of its account with the latest round, so that a job without a slot uses no turn, and
   * an account that cancels its jobs does not wait as if they had run.
   */
  #withdraw(job: string): void {
    const entry = this.#waiting.get(job)
    if (!entry) return
    this.#waiting.delete(job)
    let latest = entry
    for (const each of this.#waiting.values())
      if (each.account === entry.account && each.round > latest.round) latest = each
    latest.round = entry.round
    const account = this.#accounts.get(entry.account)
    if (account) account.turn -= 1
  }

  #hold(job: string, entry: Entry, now: number): void {
    this.#waiting.delete(job)
    this.#holding.set(job, { ...entry, since: now, renewed: now })
    const account = this.#accounts.get(entry.account)
    if (account) account.granted = now
  }

  /** The first waiting job of an account below its limit, by usage of the account, interactivity, round and age. */
  #next(gpus: number, now: number): [job: string, entry: Entry] | null {
    const heavy = this.#heavyAccounts(now)
    const held = this.#countHeld()
    let first: { job: string; entry: Entry; rank: number } | null = null
    for (const [job, entry] of this.#waiting) {
      const isStarving = this.#isStarving(entry, now)
      const isHeavy = heavy.has(entry.account) && !isStarving
      if ((held.get(entry.account) ?? 0) >= gpus + (isHeavy ? 0 : 1)) continue
      const rank = (isHeavy ? 2 : 0) + (entry.interactive || isStarving ? 0 : 1)
      const lead = first ? rank - first.rank || entry.round - first.entry.round : -1
      if (lead < 0) first = { job, entry, rank }
    }
    return first && this.#oldestOfAccount(first.job, first.entry)
  }

  /** The oldest waiting job with the account and interactivity of `entry`. Swaps the rounds of the two jobs. */
  #oldestOfAccount(job: string, entry: Entry): [job: string, entry: Entry] {
    let [oldestJob, oldest] = [job, entry]
    for (const [id, each] of this.#waiting)
      if (each.account === entry.account && each.interactive === entry.interactive && each.created < oldest.created)
        [oldestJob, oldest] = [id, each]
    ;[entry.round, oldest.round] = [oldest.round, entry.round]
    return [oldestJob, oldest]
  }

  /** The number of slots of each account. */
  #countHeld(): Map<string, number> {
    const held = new Map<string, number>()
    for (const { account } of this.#holding.values()) held.set(account, (held.get(account) ?? 0) + 1)
    return held
  }

  #isStarving({ account, since }: Entry, now: number): boolean {
    return now - Math.max(since, this.#accounts.get(account)?.granted ?? 0) > STARVATION_MS
  }

  #heavyAccounts(now: number): Set<string> {
    const usage = this.#usage(now)
    const threshold = HEAVY * Math.max(meanOf(usage), LARGEST_SHARE * largestOf(usage))
    return new Set([...usage].filter(([, ms]) => ms > threshold).map(([name]) => name))
  }

  /** The usage of accounts in milliseconds, running jobs included. */
  #usage(now: number): Map<string, number> {
    const usage = new Map<string, number>()
    for (const [name, account] of this.#accounts) {
      const ms = decay(account, now)
      if (ms >= NEGLIGIBLE_MS) usage.set(name, ms)
    }
    for (const { account, since } of this.#holding.values()) usage.set(account, (usage.get(account) ?? 0) + now - since)
    return usage
  }

  #isExpired({ renewed }: Entry, now: number): boolean {
    return now - renewed > this.#leaseMs
  }
}

const largestOf = (usage: ReadonlyMap<string, number>) =>
  [...usage.values()].reduce((largest, ms) => Math.max(largest, ms), 0)

const meanOf = (usage: ReadonlyMap<string, number>) =>
  [...usage.values()].reduce((sum, ms) => sum + ms, 0) / Math.max(1, usage.size)

const decay = ({ ms, at }: Pick<Account, 'ms' | 'at'>, now: number) => ms * 2 ** ((at - now) / HALF_LIFE_MS)

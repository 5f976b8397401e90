// Admission: accepts only jobs that can end within their limits. A refusal states the time after which a retry is accepted.
import { Demand } from './demand.ts'
import type { Scheduler } from './scheduler.ts'
import type { Task } from './task.ts'

/** The maximum share of the aging bound for all accepted work. The rest is a margin for errors of the estimates. */
const BACKLOG = 0.8
/**
 * The maximum share of the backlog for one tenant's jobs of one class, so that room remains for its other class and for other tenants. It
 * is the whole backlog if no other tenant used the device recently; `others` times their share of the device reduces it, down to `min`.
 */
const TENANT = { min: 0.15, others: 4 }
/** The maximum share of the backlog, times the share of the device that is left to the tenant, so that its work is not overdue. */
const SERVED = 0.3
/** The minimum share of the device that a tenant is assumed to get. */
const MIN_SHARE = 0.1
/** The share of a tenant's device time that remains for its standard jobs while it also has interactive ones. */
const STANDARD_SHARE = 0.2
/** Multiples of the limits up to which a promised job is accepted at its time, even if the work before it took longer than estimated. */
const DUE = { all: 1.1, tenant: 4 }
/** Accepted work in milliseconds below which a promised job is accepted before its time, so that the device does not become idle. */
const IDLE_MS = 500
/** An unused promise ends `ms`, plus `share` of its wait, after its time. */
const GRACE = { ms: 2_000, share: 0.3 }
const MAX_PROMISES = 4_096

export type AdmissionRefusal = {
  /** `backlog`: too much work has already been accepted. `deadline`: the job would end too late. */
  reason: 'backlog' | 'deadline'
  /** Milliseconds until the job is accepted; null if it can never end in time. */
  retryAfterMs: number | null
  /** The estimated time from acceptance to the end, in milliseconds. */
  takesMs: number
}

/** A place reserved for a refused job until its retry. `isFree`: it may be taken before `at`, because work before it was canceled. */
type PromisedPlace = Pick<Task, 'tenant' | 'interactive'> & { ms: number; at: number; until: number; isFree: boolean }

/**
 * Accepts or refuses new jobs. A refused job is promised a place after `retryAfterMs`: no later, even if other jobs arrive in the meantime,
 * and no earlier, unless the device would become idle.
 */
export class Admission {
  readonly #scheduler: Scheduler
  /** The limit of all accepted work, in milliseconds. */
  readonly #limitMs: number
  readonly #silenceMs: number
  readonly #demand = new Demand()
  readonly #promises = new Map<string, PromisedPlace>()

  /**
   * `silenceMs`: the time without a request for a job after which the promise to it ends, for callers that return before the time of
   * `retryAfterMs` and that another device may serve.
   */
  constructor(scheduler: Scheduler, agingMs: number, silenceMs = Number.POSITIVE_INFINITY) {
    this.#scheduler = scheduler
    this.#limitMs = BACKLOG * agingMs
    this.#silenceMs = silenceMs
  }

  /**
   * Null if the job is accepted. `loadMs`: the time to load its model. `divide` returns the job as divided over several devices, for a job that
   * would miss its deadline on one; it is one demand for the device, and takes the place of the undivided one.
   */
  refuse(task: Task, loadMs: number, now: number, divide?: () => Task): AdmissionRefusal | null {
    this.#expire(now)
    const promised = this.#promises.get(task.id)
    if (!promised) this.#demand.add(task, now)
    const wait =
      promised && !promised.isFree ? this.#waitOfPromised(task, promised, now) : this.#waitForRoom(task, promised, now)
    if (wait > 0) {
      const takesMs = this.#takesMs(task, loadMs, now)
      this.#promise(task, wait, now)
      return { reason: 'backlog', retryAfterMs: wait, takesMs }
    }
    this.#promises.delete(task.id)
    const late = this.#lateness(task, loadMs, now)
    return late && divide ? this.#lateness(divide(), loadMs, now) : late
  }

  /** The refusal of a job that would miss its deadline; null if it would not. */
  #lateness(task: Task, loadMs: number, now: number): AdmissionRefusal | null {
    const takesMs = this.#takesMs(task, loadMs, now)
    const lateMs = task.deadline === null ? 0 : now + takesMs - task.deadline
    if (lateMs <= 0) return null
    const isPossible = now + loadMs + task.left <= task.deadline!
    return { reason: 'deadline', retryAfterMs: isPossible ? lateMs : null, takesMs }
  }

  /** Milliseconds from acceptance to the end of a job. */
  #takesMs(task: Task, loadMs: number, now: number): number {
    return sum(this.#scheduler.tasksAhead(task, now)) + loadMs + task.left
  }

  /** Ends the promise to a job that was canceled, if there is one. */
  withdraw(id: string): void {
    const promised = this.#promises.get(id)
    this.#promises.delete(id)
    if (promised) this.advance(promised.tenant)
  }

  /** Lets the refused jobs of a tenant be accepted before their times, because another of its jobs was canceled. */
  advance(tenant: string): void {
    for (const each of this.#promises.values()) if (each.tenant === tenant) each.isFree = true
  }

  /** Milliseconds until there is room for a job by the time of all accepted and promised work before it. */
  #waitForRoom(task: Task, promised: PromisedPlace | undefined, now: number): number {
    const accepted = this.#scheduler.tasks().map(workOf)
    const before = [...accepted, ...this.#promisesBefore(task, promised, now)]
    const own = before.filter((each) => isSameClass(each, task))
    const { limit, rate } = this.#termsOf(task, now)
    return Math.max(excessOf(before, task.left, this.#limitMs), excessOf(own, task.left, limit) / rate)
  }

  /** Milliseconds until a promised job is accepted. */
  #waitOfPromised(task: Task, { at }: PromisedPlace, now: number): number {
    const accepted = this.#scheduler.tasks().map(workOf)
    if (now < at - 1) return accepted.reduce((total, { ms }) => total + ms, 0) < IDLE_MS ? 0 : at - now
    const own = accepted.filter((each) => isSameClass(each, task))
    const { limit, rate } = this.#termsOf(task, now)
    return Math.max(
      excessOf(accepted, task.left, DUE.all * this.#limitMs),
      excessOf(own, task.left, DUE.tenant * limit) / rate,
    )
  }

  /** The limit of the tenant's accepted work of the job's class, in milliseconds, and its share of the device. */
  #termsOf({ tenant, interactive }: Task, now: number): { limit: number; rate: number } {
    const heavy = this.#scheduler.usage.heavyTenants(now)
    const isHeavy = heavy.has(tenant)
    const others = this.#demand.shareOf((each) => each.tenant !== tenant, now)
    const light = this.#demand.shareOf((each) => each.tenant !== tenant && !heavy.has(each.tenant), now)
    // Light tenants precede heavy ones, which divide the rest fairly, regardless of their demand.
    const all = Math.max(MIN_SHARE, 1 - (isHeavy ? others : light), isHeavy ? (1 - light) / heavy.size : 0)
    const own = (ofClass: boolean) =>
      this.#demand.shareOf((each) => each.tenant === tenant && each.interactive === ofClass, now)
    const rate = interactive
      ? all - Math.min(own(false), STANDARD_SHARE * all)
      : Math.max(all - own(true), STANDARD_SHARE * all)
    const alone = 1 - TENANT.others * others
    return { limit: Math.min(Math.max(TENANT.min, alone), Math.max(SERVED, alone) * rate) * this.#limitMs, rate }
  }

  /**
   * The promised jobs that precede this one: earlier ones of its tenant, and due ones of other tenants. Promises to standard jobs do not
   * precede an interactive one, nor those to heavy tenants a job of a light one.
   */
  #promisesBefore(task: Task, promised: PromisedPlace | undefined, now: number): PromisedPlace[] {
    const heavy = this.#scheduler.usage.heavyTenants(now)
    return [...this.#promises.values()].filter((each) => {
      if (each === promised || (task.interactive && !each.interactive)) return false
      if (each.tenant === task.tenant) return !promised || each.at < promised.at
      return each.at <= now && (!heavy.has(each.tenant) || heavy.has(task.tenant))
    })
  }

  #promise({ id, tenant, interactive, left }: Task, wait: number, now: number): void {
    const at = now + wait
    this.#promises.delete(id)
    if (this.#promises.size >= MAX_PROMISES) return
    const until = Math.min(at + GRACE.ms + GRACE.share * wait, now + this.#silenceMs)
    this.#promises.set(id, { tenant, interactive, ms: left, at, until, isFree: false })
  }

  #expire(now: number): void {
    this.#demand.forget(now)
    for (const [id, { until }] of this.#promises) if (until < now) this.withdraw(id)
  }
}

type Work = Pick<Task, 'tenant' | 'interactive'> & { ms: number }
const workOf = ({ tenant, interactive, left }: Task): Work => ({ tenant, interactive, ms: left })
const isSameClass = (a: Work, b: Omit<Task, 'ms'>) => a.tenant === b.tenant && a.interactive === b.interactive
const sum = (tasks: readonly Task[]) => tasks.reduce((total, { left }) => total + left, 0)

/**
 * Excess of a job and the work before it over the limit, in milliseconds. A job that exceeds it alone only waits for the work before it.
 */
function excessOf(before: readonly Work[], ms: number, limit: number): number {
  const work = before.reduce((total, each) => total + each.ms, 0)
  return Math.min(work + ms - limit, work)
}

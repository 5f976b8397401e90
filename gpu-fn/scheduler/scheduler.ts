// Decides before every step which job uses the device. Pure: the caller passes the time and runs the steps.
import type { Task } from './task.ts'
import { Usage } from './usage.ts'

/** Lanes in order of service. */
const LANE = { overdue: 0, urgent: 1, interactive: 2, standard: 3 } as const
const LANES = Object.keys(LANE).length
/** A job is urgent once the time until its deadline is at most this multiple of its remaining device time. */
const URGENT = 1.25
/**
 * A job is overdue once the time until its aging bound, which is shortened by `share`, is at most `factor` times the remaining device time
 * of it and all older jobs.
 */
const OVERDUE = { share: 0.02, factor: 1.1 }

type Entry = { task: Task; start: number; number: number }
type RankedEntry = Entry & { lane: number; key: number }
/** Heavy tenants, and the arrival of the youngest overdue job. */
type Standing = { heavy: ReadonlySet<string>; overdue: number; now: number }

export type SchedulerOptions = {
  /** The longest time from acceptance to end, in milliseconds. */
  agingMs: number
  /** Cost of running a job of another group than the last one, in milliseconds. */
  switchMs?: (from: string, to: string) => number
}

/**
 * Orders jobs by lane, then by start-time fair queuing over tenants (Goyal, Vin and Cheng, 1996) with device time as the cost. Lanes are:
 * overdue jobs, oldest first; urgent, interactive and standard jobs of light tenants; urgent, interactive and standard jobs of heavy ones.
 * Jobs of one lane run to completion, because sharing the device would only delay the first. A job of an earlier lane preempts others
 * before their next step.
 */
export class Scheduler {
  readonly usage = new Usage()
  readonly #options: SchedulerOptions
  readonly #entries = new Map<string, Entry>()
  /** Tenant → the virtual time at which its last job ends. */
  readonly #finish = new Map<string, number>()
  #virtual = 0
  #group = ''
  #count = 0

  constructor(options: SchedulerOptions) {
    this.#options = options
  }

  add(task: Task): void {
    this.usage.enter(task.tenant, task.arrived)
    const start = Math.max(this.#virtual, this.#finish.get(task.tenant) ?? 0)
    this.#finish.set(task.tenant, start + task.left / task.weight)
    this.#entries.set(task.id, { task, start, number: this.#count++ })
  }

  remove(id: string, now: number): void {
    this.#entries.delete(id)
    // At the end of a busy period all tenants are equal again.
    if (this.#entries.size === 0) this.#virtual = Math.max(this.#virtual, ...this.#finish.values())
    const active = new Set(this.tasks().map(({ tenant }) => tenant))
    for (const [tenant, finish] of this.#finish)
      if (finish <= this.#virtual && !active.has(tenant)) this.#finish.delete(tenant)
    this.usage.forget(active, now)
  }

  tasks(): Task[] {
    return [...this.#entries.values()].map(({ task }) => task)
  }

  /** All jobs in the order in which they would run without further arrivals. */
  order(now: number): Task[] {
    return this.#rankTasks(now).map(({ task }) => task)
  }

  /** Starts the turn of the first ready job in order (`isReady`), and returns it; undefined if there is none. */
  next(now: number, isReady: (task: Task) => boolean = () => true): Task | undefined {
    const chosen = this.#rankTasks(now).find(({ task }) => isReady(task))
    return chosen && this.#begin(chosen)
  }

  /**
   * The jobs in the lane of a job, in order, that may share its turn: none in the lanes of overdue and urgent jobs, which a shared turn would
   * delay. A job of a heavy tenant never delays those of light ones.
   */
  tasksAlongside(task: Task, now: number): Task[] {
    const ranked = this.#rankTasks(now)
    const lane = ranked.find((each) => each.task === task)?.lane ?? LANE.overdue
    if (lane % LANES === LANE.urgent || lane === LANE.overdue) return []
    return ranked.filter((each) => each.lane === lane && each.task !== task).map((each) => each.task)
  }

  /** Starts a turn of this job, instead of the first one in order. */
  begin({ id }: Task): void {
    const entry = this.#entries.get(id)
    if (entry) this.#begin(entry)
  }

  #begin({ task, start }: Entry): Task {
    this.#virtual = Math.max(this.#virtual, start)
    this.#group = task.group
    task.started = true
    return task
  }

  /** Records a turn of the job on the device: its duration, and the new estimate of the time that is left. */
  charge(task: Task, ms: number, left: number, now: number): void {
    this.usage.charge(task, ms, now)
    task.left = left
  }

  /** The jobs that would run before this one without further arrivals. The job itself need not have been added. */
  tasksAhead(task: Task, now: number): Task[] {
    const entry = { task, start: Math.max(this.#virtual, this.#finish.get(task.tenant) ?? 0), number: this.#count }
    const own = this.#rank(entry, { heavy: this.usage.heavyTenants(now), overdue: this.#overdue(now), now })
    return this.#rankTasks(now)
      .filter((each) => each.task.id !== task.id && compare(each, own) < 0)
      .map((each) => each.task)
  }

  #rankTasks(now: number): RankedEntry[] {
    const standing = { heavy: this.usage.heavyTenants(now), overdue: this.#overdue(now), now }
    return [...this.#entries.values()].map((entry) => this.#rank(entry, standing)).sort(compare)
  }

  /**
   * The arrival time of the youngest overdue job. In order of arrival, each job meets its bound if the time left suffices for it and all
   * older ones. This order is used only for jobs without time for any other.
   */
  #overdue(now: number): number {
    let [older, youngest] = [0, Number.NEGATIVE_INFINITY]
    for (const { arrived, left } of this.tasks().sort((a, b) => a.arrived - b.arrived)) {
      older += left
      if (now + OVERDUE.factor * older >= arrived + (1 - OVERDUE.share) * this.#options.agingMs) youngest = arrived
    }
    return youngest
  }

  #rank(entry: Entry, { heavy, overdue, now }: Standing): RankedEntry {
    const { task, start } = entry
    if (task.arrived <= overdue) return { ...entry, lane: LANE.overdue, key: task.arrived }
    const base = heavy.has(task.tenant) ? LANES : 0
    if (isUrgent(task, now)) return { ...entry, lane: base + LANE.urgent, key: task.deadline! }
    const lane = base + (task.interactive ? LANE.interactive : LANE.standard)
    const switching = task.group === this.#group ? 0 : (this.#options.switchMs?.(this.#group, task.group) ?? 0)
    return { ...entry, lane, key: start + switching }
  }
}

const isUrgent = ({ deadline, left }: Task, now: number) => deadline !== null && now + URGENT * left >= deadline

/** A started job precedes others of the same key, so that equal jobs do not alternate. */
const compare = (a: RankedEntry, b: RankedEntry): number =>
  a.lane - b.lane || a.key - b.key || Number(b.task.started) - Number(a.task.started) || a.number - b.number

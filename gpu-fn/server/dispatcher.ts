// Gives the device to one job at a time, for one turn: a model's load, the prompts, a step, or a decoded image. Files are encoded on the
// host while other jobs have the device.
import { Admission, type Refused } from '../scheduler/admission.ts'
import { Scheduler } from '../scheduler/scheduler.ts'
import type { Task } from '../scheduler/task.ts'
import type { Estimates } from './estimates.ts'
import type { Job } from './job.ts'
import type { Observer } from './observability/observer.ts'
import type { Turn } from './run-job.ts'

/** Maximum number of started, unfinished jobs. Each interrupted one keeps its latent and its prompt embeddings in host memory. */
const MOST_STARTED = 8
/** Twice the longest pause of the edge between two offers of a job (edge/gpu/client.ts). */
const UNCLAIMED_MS = 10_000

export type Run = AsyncGenerator<Turn, { fault: boolean }>

export type DispatcherOptions = {
  /** Starts a run of the job; its turns begin when they are requested. It must not throw. */
  start: (job: Job) => Run
  /** Called after the end of a job, before the next turn on the device. It must not throw. */
  onEnd: (job: Job, fault: boolean) => Promise<void>
  /** The device became idle, or got work. */
  onIdle: () => void
  onBusy: () => void
  observer: Pick<Required<Observer>, 'turn'>
  estimates: Estimates
  /** Maximum number of jobs that have not started. */
  capacity: number
  /** Maximum time from acceptance to end. */
  agingMs: number
}

/** `hosting`: whether its current turn needs the host only. `occupied`: whether its model waits for memory. */
type Entry = { job: Job; task: Task; run: Run; hosting: boolean; occupied: boolean }

/** The refusal of a job. `full`: the queue has the maximum number of jobs. */
export type Rejection = Refused | { reason: 'full'; retryAfterMs: number }

export class Dispatcher {
  readonly #options: DispatcherOptions
  readonly #scheduler: Scheduler
  readonly #admission: Admission
  /** By task id. */
  readonly #entries = new Map<string, Entry>()
  /** Work between two turns: the ends of jobs, and actions that need the device. */
  readonly #chores: (() => Promise<void>)[] = []
  #working: Entry | undefined
  /** The job whose networks take turns on the device; it is not interrupted. */
  #exclusive: Entry | undefined
  #isBusy = false
  #reruns = 0
  readonly #onIdle: (() => void)[] = []

  constructor(options: DispatcherOptions) {
    this.#options = options
    this.#scheduler = new Scheduler({ agingMs: options.agingMs })
    this.#admission = new Admission(this.#scheduler, options.agingMs, UNCLAIMED_MS)
  }

  /** Accepts the job and returns null, or the reason for its refusal. */
  add(job: Job): Rejection | null {
    const now = performance.now()
    if (this.#isBusy && this.counts().queued >= this.#options.capacity)
      return { reason: 'full', retryAfterMs: this.#scheduler.order(now)[0]?.left ?? 0 }
    const refused = this.#admit(job, now)
    if (refused) return refused
    // A job may run again before its canceled run has ended.
    const id = this.#entries.has(job.id) ? `${job.id} ${this.#reruns++}` : job.id
    const task = { ...this.#options.estimates.taskOf(job), id }
    this.#scheduler.add(task)
    this.#entries.set(id, { job, task, run: this.#options.start(job), hosting: false, occupied: false })
    this.#wake()
    return null
  }

  /** Null if the job is accepted: on one device, or divided over several if one would miss its deadline. */
  #admit(job: Job, now: number): Refused | null {
    const { estimates } = this.#options
    const refuse = () => this.#admission.refuse(estimates.taskOf(job), estimates.loadMs(job), now)
    const refused = refuse()
    if (refused?.reason !== 'deadline' || !estimates.canDivide(job)) return refused
    job.parallel = true
    return refuse()
  }

  /** Ends the promise to a refused job, which will not return. */
  withdraw(id: string): void {
    this.#admission.withdraw(id)
  }

  /** Removes a job that has not started; false if it has. A started one ends at its next turn, which comes first. */
  remove(job: Job): boolean {
    const entry = this.#entryOf(job)
    if (!entry || entry.task.started) return false
    this.#forget(entry)
    return true
  }

  /** Number of jobs ahead of this one; 0 if it is running, ended or unknown. */
  position(job: Job): number {
    const entry = this.#entryOf(job)
    if (!entry || entry === this.#working) return 0
    const order = this.#scheduler.order(performance.now()).filter(({ id }) => id !== this.#working?.task.id)
    return order.indexOf(entry.task) + (this.#working ? 1 : 0)
  }

  /** Started and unstarted jobs. */
  counts(): { running: number; queued: number } {
    const running = [...this.#entries.values()].filter(({ task }) => task.started).length
    return { running, queued: this.#entries.size - running }
  }

  /** Unfinished jobs by class and state. */
  census(): { interactive: boolean; started: boolean; count: number }[] {
    const tasks = [...this.#entries.values()].map(({ task }) => task)
    return [true, false].flatMap((interactive) =>
      [true, false].map((started) => {
        const count = tasks.filter((task) => task.interactive === interactive && task.started === started).length
        return { interactive, started, count }
      }),
    )
  }

  /** Resolves when no job runs or waits. */
  idle(): Promise<void> {
    return this.#isBusy || this.#entries.size > 0
      ? new Promise((resolve) => this.#onIdle.push(resolve))
      : Promise.resolve()
  }

  /** Runs `action`, which must not throw, while no job has the device. */
  exclusively(action: () => Promise<void>): Promise<void> {
    return new Promise((resolve) => {
      this.#chores.push(() => action().then(resolve))
      this.#wake()
    })
  }

  #entryOf(job: Job): Entry | undefined {
    return [...this.#entries.values()].find((entry) => entry.job === job)
  }

  #wake(): void {
    if (!this.#isBusy) void this.#work()
  }

  async #work(): Promise<void> {
    this.#isBusy = true
    this.#options.onBusy()
    for (;;) {
      const chore = this.#chores.shift()
      const entry = chore ? undefined : this.#choose()
      if (chore) await chore()
      else if (entry) await this.#turn(entry)
      else break
    }
    this.#isBusy = false
    if (this.#entries.size === 0) this.#options.onIdle()
    if (this.#entries.size === 0) for (const resolve of this.#onIdle.splice(0)) resolve()
  }

  /** The job with the next turn: a canceled one, so that it ends, else the scheduler's choice. */
  #choose(): Entry | undefined {
    const canceled = [...this.#entries.values()].find(
      ({ job, task, hosting }) => !hosting && task.started && job.cancellation.signal.aborted,
    )
    if (canceled) return canceled
    if (this.#exclusive && !this.#exclusive.hosting) return this.#exclusive
    const started = this.counts().running
    const isWaitingForRoom = [...this.#entries.values()].some(({ occupied }) => occupied)
    const task = this.#scheduler.next(performance.now(), ({ id, started: hasStarted }) => {
      const { hosting, occupied } = this.#entries.get(id)!
      // Room for a waiting model comes from the end of started jobs.
      const mayStart = hasStarted || (started < MOST_STARTED && !isWaitingForRoom && !this.#exclusive)
      return !hosting && !occupied && mayStart
    })
    return task && this.#entries.get(task.id)
  }

  async #turn(entry: Entry): Promise<void> {
    const { job, task, run } = entry
    const start = performance.now()
    this.#working = entry
    endWait(job, start)
    const { value, done } = await run.next()
    const now = performance.now()
    this.#working = undefined
    if (done) return this.#end(entry, value.fault)
    job.wait.since = now
    this.#options.observer.turn(job, value, (now - start) / 1000)
    this.#options.estimates.record(job, value, now - start)
    this.#scheduler.charge(task, now - start, this.#options.estimates.leftMs(job), now)
    entry.occupied = value.phase === 'occupied'
    if (value.inTurns) this.#exclusive = entry
    if (value.phase === 'decode') void this.#host(entry)
  }

  /** A turn that needs the host only. */
  async #host(entry: Entry): Promise<void> {
    const { job, run } = entry
    entry.hosting = true
    const start = performance.now()
    endWait(job, start)
    const { value, done } = await run.next()
    const now = performance.now()
    entry.hosting = false
    if (done) this.#chores.push(() => this.#end(entry, value.fault))
    else {
      job.wait.since = now
      this.#options.observer.turn(job, value, (now - start) / 1000)
    }
    this.#wake()
  }

  async #end(entry: Entry, fault: boolean): Promise<void> {
    this.#forget(entry)
    await this.#options.onEnd(entry.job, fault)
  }

  #forget(entry: Entry): void {
    if (this.#exclusive === entry) this.#exclusive = undefined
    this.#entries.delete(entry.task.id)
    this.#scheduler.remove(entry.task.id, performance.now())
    this.#options.estimates.forget(entry.job)
    for (const each of this.#entries.values()) each.occupied = false
  }
}

function endWait({ wait }: Job, now: number): void {
  wait.ms += wait.since === null ? 0 : now - wait.since
  wait.since = null
}

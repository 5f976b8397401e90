// Gives the device to one job at a time, or to several whose steps share a run, for one turn: a model's load, the prompts, a step, or a
// decoded image. Files are encoded on the host while other jobs have the device.
import type { StepBatch } from '../engine/step-batches.ts'
import { Admission, type AdmissionRefusal } from '../scheduler/admission.ts'
import { Scheduler } from '../scheduler/scheduler.ts'
import type { Task } from '../scheduler/task.ts'
import { batchKeyOf, computeLargestBatch } from './batch-limit.ts'
import type { Estimates } from './estimates.ts'
import type { Job } from './job.ts'
import type { Observer } from './observer.ts'
import type { Turn } from './run-job.ts'

/** Maximum number of started, unfinished jobs. Each preempted one keeps its latent and its prompt embeddings in host memory. */
const MAX_STARTED = 8
/** Twice the longest pause of the edge between two offers of a job (edge/gpu/client.ts). */
const UNCLAIMED_MS = 10_000

const NEW = { hosting: false, occupied: false, beforeStep: false }

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
  /** Maximum number of jobs whose steps share a run of the denoiser; 1 by default. */
  sharing?: number | undefined
}

/**
 * `hosting`: whether its current turn needs the host only. `occupied`: whether its model waits for memory. `beforeStep`: whether its next
 * turn is a step.
 */
type Entry = { job: Job; task: Task; run: Run; hosting: boolean; occupied: boolean; beforeStep: boolean }

/** The refusal of a job. `full`: the queue has the maximum number of jobs. */
export type Rejection = AdmissionRefusal | { reason: 'full'; retryAfterMs: number }

export class Dispatcher {
  readonly #options: DispatcherOptions
  readonly #scheduler: Scheduler
  readonly #admission: Admission
  /** By task id. */
  readonly #entries = new Map<string, Entry>()
  /** Work between two turns: the ends of jobs, and actions that need the device. */
  readonly #chores: (() => Promise<void>)[] = []
  /** The jobs of the current turn. */
  #working: readonly Entry[] = []
  /** The job whose networks take turns on the device; it is not preempted. */
  #exclusive: Entry | undefined
  #isBusy = false
  #reruns = 0
  #batches = 0
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
    this.#entries.set(id, { job, task, run: this.#options.start(job), ...NEW })
    this.#wake()
    return null
  }

  /** Null if the job is accepted: on one device, or divided over several if one would miss its deadline. */
  #admit(job: Job, now: number): AdmissionRefusal | null {
    const { estimates } = this.#options
    const divide = () => {
      job.parallel = true
      return estimates.taskOf(job)
    }
    const loadMs = estimates.loadMs(job)
    return this.#admission.refuse(estimates.taskOf(job), loadMs, now, estimates.canDivide(job) ? divide : undefined)
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
    if (!entry || this.#working.includes(entry)) return 0
    const working = this.#working.map(({ task }) => task)
    const order = this.#scheduler.order(performance.now()).filter((task) => !working.includes(task))
    return order.indexOf(entry.task) + working.length
  }

  /** Started and unstarted jobs. */
  counts(): { running: number; queued: number } {
    const running = [...this.#entries.values()].filter(({ task }) => task.started).length
    return { running, queued: this.#entries.size - running }
  }

  /** Unfinished jobs by class and state. */
  countByClass(): { interactive: boolean; started: boolean; count: number }[] {
    const tasks = [...this.#entries.values()].map(({ task }) => task)
    return [true, false].flatMap((interactive) =>
      [true, false].map((started) => {
        const count = tasks.filter((task) => task.interactive === interactive && task.started === started).length
        return { interactive, started, count }
      }),
    )
  }

  /** Resolves when no job runs or waits. */
  waitUntilIdle(): Promise<void> {
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
      else if (entry) await this.#turn(this.#withOthers(entry))
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
    const task = this.#scheduler.next(performance.now(), this.#readiness())
    return task && this.#entries.get(task.id)
  }

  /** Whether a job may have a turn now. */
  #readiness(): (task: Task) => boolean {
    const started = this.counts().running
    const isWaitingForRoom = [...this.#entries.values()].some(({ occupied }) => occupied)
    // Memory for a waiting model becomes free when started jobs end.
    const mayStart = started < MAX_STARTED && !isWaitingForRoom && !this.#exclusive
    return ({ id, started: hasStarted }) => {
      const { hosting, occupied } = this.#entries.get(id)!
      return !hosting && !occupied && (hasStarted || mayStart)
    }
  }

  /**
   * The jobs of a turn: the chosen one, and those whose steps share its run. One of them that is not before a step has the turn alone, so
   * that it shares the next steps or makes room for another.
   */
  #withOthers(entry: Entry): Entry[] {
    const max = entry.job.parallel ? 1 : Math.min(this.#options.sharing ?? 1, computeLargestBatch(entry.job.request))
    if (max < 2 || !entry.beforeStep || this.#exclusive) return [entry]
    const key = batchKeyOf(entry.job.request)
    const isReady = this.#readiness()
    const others = this.#scheduler
      .tasksAlongside(entry.task, performance.now())
      .filter(isReady)
      .map(({ id }) => this.#entries.get(id)!)
      .filter(({ job }) => !job.parallel && batchKeyOf(job.request) === key)
      .slice(0, max - 1)
    const behind = others.find(({ beforeStep }) => !beforeStep)
    for (const { task } of behind ? [behind] : others) this.#scheduler.begin(task)
    return behind ? [behind] : [entry, ...others]
  }

  async #turn(entries: readonly Entry[]): Promise<void> {
    const size = entries.length
    const batch: StepBatch | null = size > 1 ? { number: ++this.#batches, size } : null
    const start = performance.now()
    this.#working = entries
    for (const { job } of entries) {
      endWait(job, start)
      job.batch = batch
    }
    const results = await Promise.all(entries.map(({ run }) => run.next()))
    const now = performance.now()
    this.#working = []
    for (const [i, entry] of entries.entries()) {
      const { value, done } = results[i]!
      entry.job.batch = null
      if (done) await this.#end(entry, value.fault)
      else this.#record(entry, value, { start, now, size })
    }
  }

  /** Records a turn that `size` jobs shared. */
  #record(entry: Entry, turn: Turn, { start, now, size }: { start: number; now: number; size: number }): void {
    const { job, task } = entry
    const { estimates, observer } = this.#options
    job.wait.since = now
    observer.turn(job, turn, (now - start) / 1000, size)
    estimates.record(job, turn, (now - start) / size)
    this.#scheduler.charge(task, (now - start) / size, estimates.leftMs(job), now)
    entry.occupied = turn.phase === 'occupied'
    entry.beforeStep = turn.beforeStep ?? false
    if (turn.inTurns) this.#exclusive = entry
    if (turn.phase === 'decode') void this.#host(entry)
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
      entry.beforeStep = false
      this.#options.observer.turn(job, value, (now - start) / 1000, 1)
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
    if (entry.job.cancellation.signal.aborted) this.#admission.advance(entry.task.tenant)
    for (const each of this.#entries.values()) each.occupied = false
  }
}

function endWait({ wait }: Job, now: number): void {
  wait.ms += wait.since === null ? 0 : now - wait.since
  wait.since = null
}

// JobDO: one job as a state machine, driven by its alarm. `nextAt` in the record is the time of the next action.
import { DurableObject } from 'cloudflare:workers'
import type { Reservation } from '../accounts/ledger.ts'
import { configOf } from '../config.ts'
import { GPU_BUDGET_EXHAUSTED, reserveGpuTime, settleGpuTime } from '../gpu/budget.ts'
import { StreamLost } from '../gpu/stream.ts'
import { log } from '../platform/log.ts'
import { cancelOnGpu, computePauseAfterLossMs, runAttempt } from './attempt.ts'
import { deleteFiles, JobEnd } from './end.ts'
import { type JobLog, openJobLog } from './event-log.ts'
import { linkToHour, streamEvents } from './events.ts'
import { reportProgress, selectsProgress } from './progress.ts'
import {
  countSteps,
  FAILED,
  isFinal,
  isOver,
  type JobRecord,
  type LogEntry,
  type LoggedEvent,
  MAX_ATTEMPTS,
  MAX_FAULTS,
} from './record.ts'
import { JobSlot } from './slot.ts'

/** The pause after a failed action. */
const RETRY_MS = 5_000
/** Delay before a retry while reservations of other jobs prevent the start of a job. */
const BUSY_MS = 1_000
/** The time limit for a GPU to end its stream after it confirmed a cancellation. */
const CANCEL_MS = 10_000
/** The time within which waiting callers repeat their calls after a reset. */
const RETURN_MS = 1_000
/** Maximum number of open event streams of a job. */
export const MAX_READERS = 20

type Attempt = { n: number; abort: AbortController; done: Promise<void> }

export class JobDO extends DurableObject<Env> {
  readonly #log: JobLog
  /** The attempt in progress in this instance. */
  #live: Attempt | null = null
  readonly #slot: JobSlot
  readonly #jobEnd: JobEnd
  #isReserving = false
  #reporting: Promise<void> | null = null
  /** The open event streams by reader. */
  readonly #readers = new Map<string, symbol>()
  /** Waiting callers whose disconnection may cancel the job; see `leave`. */
  readonly #callers = new Set<string>()
  /** Callers that disconnected before their job was created. */
  readonly #left = new Set<string>()
  /** Unix milliseconds until which `#callers` may be incomplete after a reset. */
  readonly #incompleteUntil: number

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#log = openJobLog(ctx.storage)
    this.#slot = new JobSlot(env)
    this.#jobEnd = new JobEnd(env, ctx.storage, this.#log)
    // A reset ends the attempt in progress. Continue the job now instead of at the next alarm.
    const job = this.#log.find()
    this.#incompleteUntil = job ? Date.now() + RETURN_MS : 0
    if (job && !isOver(job)) void ctx.blockConcurrencyWhile(() => ctx.storage.setAlarm(Date.now()))
  }

  /**
   * Creates the job of a reservation and starts it. An existing job is returned unchanged. Null, without a job, when the account is about to
   * release the reservation because of its age.
   */
  create(reservation: Reservation): Promise<JobRecord | null> {
    return this.#create(reservation, false)
  }

  async #create({ spec, reservedAt }: Reservation, isCanceled: boolean): Promise<JobRecord | null> {
    const existing = this.#log.find()
    if (existing || !spec || this.#log.refuses(reservedAt)) return existing
    if (Date.now() - reservedAt > configOf(this.env).recovery.reservationMs / 2) return null
    const job = this.#log.create(spec)
    if (isCanceled) this.#log.append(0, { type: 'cancel_requested' })
    await this.#advance()
    return job
  }

  /** Creates the job if necessary and waits for its end. */
  async run(reservation: Reservation, caller: string): Promise<JobRecord | null> {
    return (await this.#create(reservation, this.#left.delete(caller))) && this.ended(null, caller)
  }

  /** Starts an attempt in the slot that the endpoint has granted. False if the job does not need it any more. */
  async proceed(): Promise<boolean> {
    const job = this.#log.find()
    if (!job || isFinal(job) || job.cancelRequested) return false
    if (!job.granted) {
      // The time in the endpoint's queue does not count as a wait for the GPU.
      const queuedMs = Math.max(0, Date.now() - job.nextAt)
      const waiting = job.waiting && { ...job.waiting, since: job.waiting.since + queuedMs }
      this.#log.update({ granted: true, waiting })
      await this.#advance()
    }
    return true
  }

  /** The job; null if there is none with this id. */
  view(): JobRecord | null {
    return this.#log.find()
  }

  /** The event log after entry `after`, oldest first. */
  events(after = 0): LogEntry[] {
    return this.#log.after(after)
  }

  /**
   * Server-sent events: the log after entry `after`, then new entries until the job ends. Null at the limit of readers. A second stream of
   * the same `reader` replaces the first.
   */
  follow(after: number, reader: string): ReadableStream<Uint8Array> | null {
    if (!this.#readers.has(reader) && this.#readers.size >= MAX_READERS) return null
    const turn = Symbol(reader)
    this.#readers.set(reader, turn)
    return streamEvents(this.#log, after, linkToHour(this.env), () => {
      if (this.#readers.get(reader) === turn) this.#readers.delete(reader)
    })
  }

  /**
   * Waits until the job has ended and its price is settled, or until `deadline` (Unix milliseconds), and returns the job. `caller` is the id
   * to pass to `leave`.
   */
  async ended(deadline: number | null = null, caller?: string): Promise<JobRecord> {
    if (caller) this.#callers.add(caller)
    const { promise: late, resolve } = Promise.withResolvers<'late'>()
    const timer = deadline === null ? undefined : setTimeout(resolve, deadline - Date.now(), 'late')
    try {
      while (!isFinal(this.#log.job())) {
        if ((await Promise.race([late, this.#log.changed()])) === 'late') return this.#log.job()
      }
      return await this.#jobEnd.settle()
    } finally {
      clearTimeout(timer)
      if (caller) this.#callers.delete(caller)
    }
  }

  /**
   * Called when a waiting caller with `on_disconnect: cancel` has disconnected. The last one cancels the job; after a reset, only once the
   * other callers could have repeated their calls.
   */
  async leave(caller: string): Promise<void> {
    this.#callers.delete(caller)
    if (!this.#log.find()) {
      this.#left.add(caller)
      return
    }
    const restMs = this.#incompleteUntil - Date.now()
    if (this.#callers.size === 0 && restMs > 0) await new Promise((resolve) => setTimeout(resolve, restMs))
    if (this.#callers.size === 0) await this.cancel()
  }

  /** The number of waiting callers whose disconnection may cancel the job. */
  waiting(): number {
    return this.#callers.size
  }

  /** Cancels the job: immediately, or at the GPU's next step if the GPU confirms. A final job stays unchanged. */
  async cancel(): Promise<JobRecord> {
    const job = this.#log.job()
    if (isFinal(job)) return job
    if (!job.cancelRequested) this.#log.append(job.attempt, { type: 'cancel_requested' })
    const isConfirmed = await cancelOnGpu(this.env, job)
    const live = this.#live
    if (isFinal(this.#log.job())) return this.#log.job()
    if (!isConfirmed || !live || this.#log.job().accepted === null) return this.#endCanceled()
    setTimeout(() => {
      if (this.#live === live) void this.#endCanceled()
    }, CANCEL_MS)
    return this.#log.job()
  }

  /**
   * Permanently deletes images of a final job and their previews, from R2, the event log and the account's list. Null deletes all of them, and
   * the files of failed attempts as well.
   */
  async eraseImages(indexes: readonly number[] | null): Promise<void> {
    // A settlement in progress would store the list of the images as they were before.
    await this.#jobEnd.settle()
    const isDeleted = ({ image }: { image: number }) => indexes === null || indexes.includes(image)
    const { images } = this.#log.job()
    // The record first: no view may link to a deleted file.
    this.#log.update({ images: images.map((each) => (isDeleted(each) ? { ...each, deleted: true as const } : each)) })
    this.#log.deletePreviews(indexes)
    await deleteFiles(this.env, this.#log.job(), indexes && images.filter(isDeleted).map(({ key }) => key))
  }

  /**
   * Deletes the job, except for its files, during the deletion of its account. An open job is canceled and settled first. Concurrent requests
   * cannot create the job again. Throws if the deletion must be repeated.
   */
  async erase(): Promise<void> {
    if (this.#log.find()) await this.#stop()
    await this.#refuse()
  }

  /** Prevents the creation of the job from reservations made until `reservedAt`, by the account's clock. False if the job exists. */
  async preclude(reservedAt: number): Promise<boolean> {
    if (this.#log.find()) return false
    await this.#refuse(reservedAt)
    return true
  }

  /** Deletes record and log, and prevents the creation of the job from reservations until `reservedAt`, by default from all. */
  async #refuse(reservedAt?: number): Promise<void> {
    this.#log.erase(reservedAt)
    // The alarm removes the mark once no request in flight can create the job any more.
    await this.ctx.storage.setAlarm(Date.now() + configOf(this.env).recovery.reservationMs)
  }

  override async alarm(): Promise<void> {
    try {
      if (this.#log.isErased()) return await this.#jobEnd.clear()
      await this.#advance()
    } catch (cause) {
      log('error', 'a job could not be advanced', { job: this.#log.find()?.id, cause })
      // The alarm of an erased job deletes its mark.
      if (!this.#log.isErased()) await this.ctx.storage.setAlarm(Date.now() + RETRY_MS)
    }
  }

  /** Performs the job's next action if it is due, and sets the alarm for the one after it. */
  async #advance(): Promise<void> {
    const job = this.#log.find()
    if (!job) return
    if (isFinal(job)) return this.#jobEnd.finish()
    if (this.#live) return this.#awaitAttempt(job)
    // The object was reset before the GPU's confirmation arrived; a canceled job gets no further attempt.
    if (job.cancelRequested) return void (await this.#endCanceled())
    if (Date.now() < job.nextAt) return this.ctx.storage.setAlarm(job.nextAt)
    const n = job.waiting ? job.attempt : job.attempt + 1
    if (job.faults >= MAX_FAULTS || n > MAX_ATTEMPTS)
      return this.#end({ type: 'given_up', code: 'generation_failed', message: FAILED })
    if (!job.granted) return this.#awaitSlot(job)
    if (configOf(this.env).gpuBudget && !(await this.#reserveTime(job))) return
    this.#begin(n)
    await this.ctx.storage.setAlarm(Date.now() + configOf(this.env).recovery.jobMs)
  }

  /** Reserves GPU time for the next attempt. False if the attempt must not begin: the job ends, or returns to the queue for a slot. */
  async #reserveTime({ id }: JobRecord): Promise<boolean> {
    // A second reservation of the job would end the first.
    if (this.#isReserving) return false
    this.#isReserving = true
    const room = await reserveGpuTime(this.env, id).finally(() => {
      this.#isReserving = false
    })
    const job = this.#log.find()
    const isOpen = job && !isFinal(job) && !job.cancelRequested
    if (isOpen && room === 'reserved') return true
    if (room === 'reserved') await settleGpuTime(this.env, { id, accepted: null, timings: null })
    else if (isOpen && room === 'exhausted')
      await this.#end({ type: 'given_up', code: 'gpu_budget_exhausted', message: GPU_BUDGET_EXHAUSTED })
    else if (isOpen) await this.#postpone(job)
    return false
  }

  /** Releases the slot of a job until others have returned their reservations of GPU time. */
  async #postpone(job: JobRecord): Promise<void> {
    const nextAt = Date.now() + BUSY_MS
    this.#log.update({ granted: false, nextAt })
    await this.ctx.storage.setAlarm(nextAt)
    await this.#slot.leave(job)
  }

  /** Renews the slot of a job that a GPU has accepted. The slot of an unresponsive endpoint expires and passes to another job. */
  async #awaitAttempt(job: JobRecord): Promise<void> {
    await this.ctx.storage.setAlarm(Date.now() + configOf(this.env).recovery.jobMs)
    if (job.accepted !== null) await this.#slot.renew(job)
  }

  /** Requests a slot, and again later in case the endpoint's message is lost, and continues once the job has it. */
  async #awaitSlot(job: JobRecord): Promise<void> {
    await this.ctx.storage.setAlarm(Date.now() + configOf(this.env).recovery.jobMs)
    // The job may have ended or been erased during the call.
    if ((await this.#slot.request(job)) && !(await this.proceed())) await this.#slot.leave(job)
  }

  #begin(n: number): void {
    const abort = new AbortController()
    this.#slot.use()
    const onLastStep = () => this.ctx.waitUntil(this.#slot.release(this.#log.job()))
    const done = runAttempt(this.env, this.#log, { n, abort, onLastStep }).then(() => this.#afterAttempt(abort))
    this.#live = { n, abort, done }
    this.#report()
    this.ctx.waitUntil(
      done.catch((cause: unknown) => log('error', 'an attempt ended abnormally', { job: this.#log.find()?.id, cause })),
    )
  }

  /** Reports the job's progress to its webhook URL, if the request selects such events, once for all attempts of this instance. */
  #report(): void {
    if (this.#reporting || !selectsProgress(this.#log.job())) return
    this.#reporting = reportProgress(this.env, this.#log).catch((cause: unknown) =>
      log('error', 'the progress of a job could not be reported', { job: this.#log.find()?.id, cause }),
    )
    this.ctx.waitUntil(this.#reporting)
  }

  async #afterAttempt({ signal }: AbortController): Promise<void> {
    // Settled before the next attempt starts, because this ends the reservation in the budget.
    await settleGpuTime(this.env, this.#log.job())
    if (this.#live?.abort.signal === signal) this.#live = null
    const job = this.#log.job()
    // A lost attempt keeps its slot during the pause, because its GPU may still work on it and the next attempt joins that run.
    if (isFinal(job) || job.waiting || job.cancelRequested) {
      this.ctx.waitUntil(this.#slot.release(job))
      this.#log.update({ granted: false })
    }
    if (!isFinal(job) && !job.waiting)
      this.#log.update({ nextAt: Date.now() + computePauseAfterLossMs(job, configOf(this.env).gpuTimes) })
    await this.#advance()
  }

  /** Ends the job as canceled without waiting for a GPU. */
  #endCanceled(): Promise<JobRecord> {
    const steps_done = countSteps(this.#log.job())
    const live = this.#live
    const ended = this.#end({ type: 'canceled', steps_done, timings: null })
    live?.abort.abort(new StreamLost('the job was canceled'))
    return ended.then(() => this.#log.job())
  }

  async #end(event: LoggedEvent): Promise<void> {
    const job = this.#log.job()
    this.#log.append(job.attempt, event)
    this.ctx.waitUntil(this.#slot.leave(job))
    this.ctx.waitUntil(settleGpuTime(this.env, job))
    await this.#jobEnd.finish()
  }

  /** Ends an open job and waits for all work on it. Throws if the job is not settled yet. */
  async #stop(): Promise<void> {
    const live = this.#live
    await this.cancel()
    if (!(await this.ended()).settled) throw new Error('the job is not settled yet')
    await live?.done
    await this.#jobEnd.waitUntilIdle()
  }
}

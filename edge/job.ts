// JobDO: one job. It keeps the record and the event log, talks to the GPU in one place (`attempt`), and settles the price once.
import { DurableObject } from 'cloudflare:workers'
import { jittered } from './backoff.ts'
import type { Env } from './env.ts'
import { cancel } from './gpu.ts'
import { StreamLost } from './gpu-stream.ts'
import { type GpuTimes, readGpuTimes } from './gpu-times.ts'
import { gpuCall, runAttempt } from './job-attempt.ts'
import { settle, settleAndAnnounce } from './job-end.ts'
import { eventStream } from './job-events.ts'
import { type JobLog, type LogEntry, openJobLog } from './job-log.ts'
import { FAILED, isFinal, isOver, type JobRecord, type JobSpec, MAX_ATTEMPTS, stepsSeen } from './job-record.ts'
import { log } from './log.ts'
import { readRecovery } from './recovery.ts'

const UNFINISHED_MS = 5_000

export type { LogEntry }

/** The pause after an attempt that was lost, in which a GPU may recover; none after the last. */
function afterLossMs({ attempt }: JobRecord, { retryMs }: GpuTimes): number {
  return attempt < MAX_ATTEMPTS ? Math.round(jittered(retryMs * 4 ** (attempt - 1))) : 0
}

export class JobDO extends DurableObject<Env> {
  readonly #log: JobLog
  #live: { n: number; abort: AbortController; done: Promise<void> } | null = null
  #finishing: Promise<JobRecord> | null = null
  #waiters = 0

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#log = openJobLog(ctx.storage)
  }

  /**
   * Creates the job, for its Workflow to drive unless a caller will `run` it; the same id again changes nothing. From here on the watchdog
   * sees to it that the job ends.
   */
  async create(spec: JobSpec, drivenBy: 'caller' | 'Workflow' = 'caller'): Promise<JobRecord> {
    const known = this.view()
    if (known) return known
    const job = this.#log.create(spec)
    await this.#watch()
    // After the reply: a caller who reads the events is not to wait for a Workflow to start.
    if (drivenBy === 'Workflow') setTimeout(() => this.start(), 0)
    return job
  }

  /** The job, or null when there is none under this id. */
  view(): JobRecord | null {
    return this.#log.find()
  }

  /** The event log after entry `after`, oldest first. */
  events(after = 0): LogEntry[] {
    return this.#log.after(after)
  }

  /** Server-sent events: the log after entry `after`, then what happens, up to the job's end. */
  follow(after: number): ReadableStream<Uint8Array> {
    return eventStream(this.#log, after)
  }

  /** Runs attempt 1 for a caller who waits and returns the final job; whatever more it takes is the Workflow's. It goes on when the caller leaves. */
  async run(): Promise<JobRecord> {
    this.join()
    const { attempt } = this.#log.job()
    if (attempt === 0 || this.#live) await this.attempt(Math.max(1, attempt), true)
    else this.start()
    return this.ended()
  }

  /** Has the Workflow drive the job, unless it has ended. Nobody waits for a Workflow to start: the watchdog makes up for one that does not. */
  start(): void {
    if (!isFinal(this.#log.job())) this.ctx.waitUntil(this.#handOver())
  }

  /** Waits for the job's end, at most `limitMs`, and returns the job as it then stands. */
  async ended(limitMs?: number): Promise<JobRecord> {
    const { promise: late, resolve } = Promise.withResolvers<'late'>()
    const timer = limitMs === undefined ? undefined : setTimeout(resolve, limitMs, 'late')
    while (!isFinal(this.#log.job())) {
      if ((await Promise.race([late, this.#log.changed()])) === 'late') return this.#log.job()
    }
    clearTimeout(timer)
    return settle(this.env, this.#log)
  }

  /** Runs attempt n, or joins it. A final job and a stale n are answered as they stand; a higher n takes the job over. */
  async attempt(n: number, patient = false): Promise<JobRecord> {
    const job = this.#log.job()
    if (isFinal(job) || n < job.attempt) return job
    if (this.#live?.n !== n) this.#begin(n, patient)
    await this.#live?.done
    return isFinal(this.#log.job()) ? settle(this.env, this.#log) : this.#log.job()
  }

  /** One turn of whoever drives the job, attempt or tidying up: milliseconds until the next one, or null when nothing is left to do. */
  async turn(): Promise<number | null> {
    const times = readGpuTimes(this.env)
    const { attempt, waiting } = this.#log.job()
    const next = waiting ? attempt : attempt + 1
    if (this.#live) await this.#live.done
    else if (next > MAX_ATTEMPTS)
      this.#log.append(attempt, { type: 'given_up', code: 'generation_failed', message: FAILED })
    else await this.attempt(next)
    const job = this.#log.job()
    if (isFinal(job)) return isOver(await this.#finish()) ? null : UNFINISHED_MS
    return job.waiting?.waitMs ?? afterLossMs(job, times)
  }

  /** Marks images as deleted; the job tells no link to them any more. */
  forgetImages(keys: readonly string[]): void {
    const images = this.#log
      .job()
      .images.map((each) => (keys.includes(each.key) ? { ...each, deleted: true as const } : each))
    this.#log.update({ images })
  }

  /** Ends the job at its next step. It is canceled at once where no GPU works on it; a final job stays as it is. */
  async cancel(): Promise<JobRecord> {
    const job = this.#log.job()
    if (isFinal(job)) return job
    if (!job.cancelRequested) this.#log.append(job.attempt, { type: 'cancel_requested' })
    const call = gpuCall(this.env, job, Math.max(1, job.attempt), new AbortController())
    const told = job.accepted !== null && (await cancel(call))
    if (told && this.#live) return this.#log.job()
    const { attempt } = this.#log.job()
    this.#log.append(attempt, { type: 'canceled', steps_done: stepsSeen(this.#log.job()), timings: null })
    this.#live?.abort.abort(new StreamLost('the job was canceled'))
    return this.#finish()
  }

  /** One more caller waits who may `leave`. */
  join(): void {
    this.#waiters += 1
  }

  /** A caller waits no longer, and leaves the job to itself. */
  part(): void {
    this.#waiters -= 1
  }

  /** How many callers wait and have not left. */
  waiting(): number {
    return this.#waiters
  }

  /** A caller whose request says `on_disconnect: cancel` has left; the last one takes the job along. */
  async leave(): Promise<void> {
    this.part()
    if (this.#waiters <= 0) await this.cancel()
  }

  override async alarm(): Promise<void> {
    const job = this.view()
    if (!job || isOver(job)) return
    await this.#watch()
    if (isFinal(job)) await this.#finish()
    else if (!this.#live && !(await this.#handOver())) {
      // Not awaited: an alarm may take 15 minutes, an attempt longer. The alarm just set is the net under it.
      const broke = (cause: unknown) => log('error', 'the watchdog could not drive the job', { job: job.id, cause })
      this.ctx.waitUntil(this.turn().catch(broke))
    }
  }

  /** Has the watchdog look at the job when nobody drives it any more. */
  #watch(): Promise<void> {
    return this.ctx.storage.setAlarm(Date.now() + readRecovery(this.env).jobMs)
  }

  #begin(n: number, patient: boolean): void {
    this.#live?.abort.abort(new StreamLost(`attempt ${n} took over`))
    const abort = new AbortController()
    const done = runAttempt(this.env, this.#log, { n, patient, abort }).then(async () => {
      if (this.#live?.n === n) this.#live = null
      if (isFinal(this.#log.job())) this.ctx.waitUntil(this.#finish())
      else if (patient && this.#log.job().attempt === n)
        await this.#handOver(afterLossMs(this.#log.job(), readGpuTimes(this.env)))
    })
    this.#live = { n, abort, done }
    this.ctx.waitUntil(done.catch(() => {}))
  }

  /** Starts the Workflow that drives the job, after `waitMs`. False when it has one already, or none could be started. */
  async #handOver(waitMs = 0): Promise<boolean> {
    const { id } = this.#log.job()
    try {
      await this.env.GENERATE.create({ id, params: { job: id, waitMs } })
      return true
    } catch (cause) {
      log('warn', 'no Workflow was started for the job', { job: id, cause })
      return false
    }
  }

  /** Settles and announces a final job, once at a time. */
  #finish(): Promise<JobRecord> {
    this.#finishing ??= this.#tidy().finally(() => {
      this.#finishing = null
    })
    return this.#finishing
  }

  async #tidy(): Promise<JobRecord> {
    const job = await settleAndAnnounce(this.env, this.#log)
    if (isOver(job)) await this.ctx.storage.deleteAlarm()
    return job
  }
}

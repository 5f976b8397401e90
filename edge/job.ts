// JobDO: one job. It keeps the record and the event log, talks to the GPU in one place (`attempt`), and settles the price once.
import { DurableObject } from 'cloudflare:workers'
import { PROTOCOL_VERSION } from '#contract'
import { jittered, sleep } from './backoff.ts'
import { readCatalogue } from './catalogue.ts'
import type { Env } from './env.ts'
import { GpuOverran, GpuRefused, GpuUnavailable, generate } from './gpu.ts'
import { type Frame, StreamLost } from './gpu-stream.ts'
import { readGpuTimes } from './gpu-times.ts'
import {
  applyEvent,
  beginAttempt,
  FAILED,
  failJob,
  isFinal,
  type JobRecord,
  type JobSpec,
  type LoggedEvent,
  MAX_ATTEMPTS,
  newJob,
} from './job-record.ts'
import { log } from './log.ts'
import { storeImage } from './results.ts'

/** The watchdog: how soon a job that nobody drives any more (an eviction, a deploy) is taken up again. */
const WATCH_MS = 30_000
const NO_GPU = 'No GPU took the job in time. Nothing was charged; please try again in a minute.'

export type LogEntry = { seq: number; attempt: number; at: number; event: LoggedEvent }

export class JobDO extends DurableObject<Env> {
  #live: { n: number; abort: AbortController; done: Promise<JobRecord> } | null = null
  #driving: Promise<JobRecord> | null = null

  /** Creates the job; the same id again changes nothing. From here on the watchdog sees to it that the job ends. */
  async create(spec: JobSpec): Promise<JobRecord> {
    const known = this.view()
    if (known) return known
    const { storage } = this.ctx
    storage.sql.exec('CREATE TABLE events (seq INTEGER PRIMARY KEY, attempt INTEGER, at INTEGER, event TEXT) STRICT')
    this.#save(newJob(spec))
    await storage.setAlarm(Date.now() + WATCH_MS)
    return this.#job()
  }

  /** The job, or null when there is none under this id. */
  view(): JobRecord | null {
    return this.ctx.storage.kv.get<JobRecord>('job') ?? null
  }

  /** The event log after entry `after`, oldest first. */
  events(after = 0): LogEntry[] {
    if (!this.view()) return []
    const rows = this.ctx.storage.sql.exec<Omit<LogEntry, 'event'> & { event: string }>(
      'SELECT * FROM events WHERE seq > ? ORDER BY seq',
      after,
    )
    return [...rows].map((row) => ({ ...row, event: JSON.parse(row.event) }))
  }

  /** Drives the job to its end, attempt after attempt; a second call joins the first. It goes on when the caller leaves. */
  run(): Promise<JobRecord> {
    this.#driving ??= this.#drive().finally(() => {
      this.#driving = null
    })
    this.ctx.waitUntil(this.#driving.catch(() => {}))
    return this.#driving
  }

  /** Runs attempt n, or joins it. A final job and a stale n are answered as they stand; a higher n takes the job over. */
  attempt(n: number): Promise<JobRecord> {
    const job = this.#job()
    if (isFinal(job) || n < job.attempt) return Promise.resolve(job)
    if (this.#live?.n === n) return this.#live.done
    this.#live?.abort.abort(new StreamLost(`attempt ${n} took over`))
    const abort = new AbortController()
    const done = this.#perform(n, abort).finally(() => {
      if (this.#live?.n === n) this.#live = null
    })
    this.#live = { n, abort, done }
    this.ctx.waitUntil(done.catch(() => {}))
    return done
  }

  override async alarm(): Promise<void> {
    const job = this.view()
    if (!job || job.settled) return
    await this.ctx.storage.setAlarm(Date.now() + WATCH_MS)
    // Not awaited: an alarm may take 15 minutes, a job longer. The alarm just set is the net under it.
    void this.run()
  }

  async #drive(): Promise<JobRecord> {
    for (let job = this.#job(); !isFinal(job); job = this.#job()) {
      if (this.#live) await this.#live.done
      else if (job.attempt >= MAX_ATTEMPTS) this.#save(failJob(job, 'generation_failed', FAILED))
      else await this.#next(job.attempt + 1)
    }
    return this.#settle()
  }

  /** Runs attempt n; a repeated one after a pause, in which a GPU may recover. */
  async #next(n: number): Promise<JobRecord> {
    if (n > 1) await sleep(jittered(readGpuTimes(this.env).retryMs * 4 ** (n - 2)))
    return this.attempt(n)
  }

  async #perform(n: number, abort: AbortController): Promise<JobRecord> {
    this.#save(beginAttempt(this.#job(), n))
    try {
      for await (const frame of generate(this.#call(n, abort))) {
        const event = await this.#stored(frame)
        if (this.#job().attempt !== n) return this.#job()
        this.#append(n, event)
      }
    } catch (cause) {
      this.#broke(n, cause)
    }
    return isFinal(this.#job()) ? this.#settle() : this.#job()
  }

  #call(n: number, abort: AbortController) {
    const { id, request, decision } = this.#job()
    return {
      ...readGpuTimes(this.env),
      endpoint: readCatalogue(this.env).endpoints[decision.endpoint]!,
      signingKey: this.env.GPU_SIGNING_KEY,
      job: id,
      request: { protocol: PROTOCOL_VERSION, attempt: n, ...request } as const,
      abort,
    }
  }

  /** Takes an image's bytes off to R2, before the log tells of it. */
  async #stored({ event, data }: Frame): Promise<LoggedEvent> {
    if (event.type === 'heartbeat') throw new Error('heartbeats end in gpu.ts')
    if (event.type !== 'image') return event
    return { type: 'stored', image: await storeImage(this.env.RESULTS, this.#job(), event, data!) }
  }

  /** An attempt ended without its terminal event. */
  #broke(n: number, cause: unknown): void {
    const job = this.#job()
    if (job.attempt !== n) return
    log('warn', 'an attempt broke', { job: job.id, attempt: n, cause })
    if (cause instanceof GpuUnavailable) this.#save(failJob(job, 'gpu_unavailable', NO_GPU))
    else if (cause instanceof GpuRefused || cause instanceof GpuOverran)
      this.#save(failJob(job, 'generation_failed', FAILED))
    else this.#append(n, { type: 'lost', reason: cause instanceof Error ? cause.message : 'unknown' })
  }

  #append(attempt: number, event: LoggedEvent): void {
    if (event.type === 'failed') log('error', 'the GPU function failed a job', { job: this.#job().id, attempt, event })
    this.ctx.storage.transactionSync(() => {
      this.ctx.storage.sql.exec(
        'INSERT INTO events (attempt, at, event) VALUES (?, ?, ?)',
        attempt,
        Date.now(),
        JSON.stringify(event),
      )
      this.#save(applyEvent(this.#job(), event))
    })
  }

  /** Captures or releases the price of a final job. Repeats do no harm, so when it fails the watchdog does it again. */
  async #settle(): Promise<JobRecord> {
    const { id, account, state, error, settled } = this.#job()
    if (settled) return this.#job()
    try {
      const ledger = this.env.ACCOUNT.getByName(account)
      // No GPU took it and we ask for a retry, which must not be answered with this very failure.
      if (error?.code === 'gpu_unavailable') await ledger.releaseAndForget(id)
      else await ledger.settle(id, state === 'succeeded' ? 'captured' : 'released')
      this.#save({ ...this.#job(), settled: true })
      await this.ctx.storage.deleteAlarm()
    } catch (cause) {
      log('error', 'a job could not be settled yet', { job: id, cause })
    }
    return this.#job()
  }

  #job(): JobRecord {
    const job = this.view()
    if (!job) throw new Error('this job was never created')
    return job
  }

  #save(job: JobRecord): void {
    this.ctx.storage.kv.put('job', job)
  }
}

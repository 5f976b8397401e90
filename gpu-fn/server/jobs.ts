// The jobs of this process: each is accepted once, queued, run, and kept for replay for some time after its end.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Health, JobRequest } from '../contract.ts'
import type { Engine, Model } from '../engine/engine.ts'
import type { InputFiles } from '../pipeline/input/input-image.ts'
import type { Size } from '../pipeline/pipeline.ts'
import { Dispatcher, type Rejection } from './dispatcher.ts'
import { createEngineHealth } from './engine-health.ts'
import { Estimates } from './estimates.ts'
import { append, createJob, type Job, outcomeOf, parametersOf } from './job.ts'
import { type Observer, observeWith } from './observer.ts'
import { createPrefetch, type Prefetch } from './prefetch.ts'
import { createReaders } from './readers.ts'
import { createExpiringMap } from './requests/expiring-map.ts'
import { Refusal } from './requests/refusal.ts'
import type { TraceParent } from './requests/traceparent.ts'
import { Retention, type RetentionLimits } from './retention.ts'
import { createCanceledEvent, runJob } from './run-job.ts'

/** State of the process, set by `main.ts`. */
export type Lifecycle = { status: Health['status'] }

export interface JobsOptions extends RetentionLimits {
  engine: Engine
  lifecycle: Lifecycle
  /** Maximum number of jobs that have not started. */
  queue: number
  /** The longest time from acceptance to end of a job. */
  agingSeconds?: number
  /** Maximum number of jobs whose steps share a run of the denoiser; 1 by default. */
  sharing?: number
  /** A job without a reader for this long is canceled. */
  unreadSeconds: number
  log: Logger
  /** Called once when the engine no longer works, for example after a GPU fault. */
  onBroken: () => void
  observer?: Required<Observer>
}

/** Twice the duration of the built-in model's longest job on a slow CPU, so that there is room for others. */
const AGING_SECONDS = 60
/** Longer than a sequential caller's pause between jobs. */
const IDLE_MS = 500
/** Bounds on remembered cancellations. A PUT overtaken by its DELETE arrives while the edge still retries. */
const CANCELLATIONS = { seconds: 600, max: 16_384 }

/** The registry of jobs over one engine. `submit` and `cancel` throw a Refusal. */
export class Jobs {
  readonly #options: JobsOptions
  readonly #jobs = new Map<string, Job>()
  /** Job id → the highest attempt canceled by request, even if the job was unknown at the time. */
  readonly #canceledAttempts = createExpiringMap<number>(CANCELLATIONS)
  readonly #retention: Retention
  readonly #dispatcher: Dispatcher
  readonly #prefetch: Prefetch
  readonly #readers: ReturnType<typeof createReaders>

  constructor(options: JobsOptions) {
    const { engine, log, onBroken, queue, unreadSeconds, sharing, agingSeconds = AGING_SECONDS } = options
    const { observer = observeWith([]) } = options
    this.#options = options
    this.#retention = new Retention(options, (job) => {
      if (this.#jobs.get(job.id) === job) this.#jobs.delete(job.id)
    })
    const health = createEngineHealth(engine, log, onBroken)
    this.#prefetch = createPrefetch(engine)
    this.#dispatcher = new Dispatcher({
      start: (job) => runJob(engine, job, this.#logOf(job)),
      onEnd: async (job, fault) => {
        this.#retention.add(job)
        observer.end(job)
        await health.record(job, fault)
      },
      onIdle: () => this.#prefetch.idle(),
      onBusy: () => this.#prefetch.busy(),
      estimates: new Estimates(),
      observer,
      capacity: queue,
      agingMs: agingSeconds * 1000,
      sharing,
    })
    this.#readers = createReaders(unreadSeconds * 1000, (job) => {
      this.#logOf(job).info({ seconds: unreadSeconds }, 'job canceled: it has no reader')
      this.#stop(job)
    })
  }

  /**
   * Accepts a new job, or returns the existing one with this id if its request is the same. For an attempt that was canceled earlier,
   * returns a job that has ended as canceled.
   */
  submit(id: string, request: JobRequest, files: InputFiles = {}, trace: TraceParent | null = null): Job {
    const known = this.#jobs.get(id)
    if (known && known.parameters !== parametersOf(request))
      throw new Refusal('job_conflict', `job ${id} exists with another body`)
    const isCanceled = request.attempt <= (this.#canceledAttempts.get(id) ?? 0)
    if (known && (isCanceled || !mayRunAgain(known, request.attempt))) {
      known.attempt = Math.max(known.attempt, request.attempt)
      return known
    }
    const job = createJob(id, request, files, trace)
    if (isCanceled) {
      this.#jobs.set(id, job)
      this.#endCanceled(job)
      this.#logOf(job).info('job canceled before it arrived')
    } else this.#enqueue(job)
    return job
  }

  /** Registers a reader of the job until the returned function is called. */
  attach(job: Job): () => void {
    return this.#readers.attach(job)
  }

  /**
   * Cancels a job before its next step; an ended job is unchanged. `attempt` is null if the caller did not give one. Canceling an unknown
   * job is recorded but still refused as job_not_found.
   */
  cancel(id: string, attempt: number | null): void {
    const job = this.#jobs.get(id)
    if (job && attempt !== null && attempt < job.attempt)
      throw new Refusal('stale_attempt', `job ${id} is at attempt ${job.attempt}; given ${attempt}`)
    const through = Math.max(attempt ?? 0, job?.attempt ?? 0, this.#canceledAttempts.get(id) ?? 0)
    if (through > 0) this.#canceledAttempts.set(id, through)
    this.#dispatcher.withdraw(id)
    if (!job) throw new Refusal('job_not_found', `job ${id} is not known here`)
    if (outcomeOf(job)) return
    this.#logOf(job).info('job canceled by request')
    this.#stop(job)
  }

  position(job: Job): number {
    return this.#dispatcher.position(job)
  }

  counts(): ReturnType<Dispatcher['counts']> {
    return this.#dispatcher.counts()
  }

  /** Counts a request for a model; null if it is not offered. The most requested models are prefetched. */
  prewarm({ model: name, tier }: Pick<JobRequest, 'model' | 'tier'>): Model | null {
    const model = this.#options.engine.models.find((each) => each.model === name && each.tier === tier)
    if (!model) return null
    this.#prefetch.requested(model)
    return model
  }

  /**
   * Opens a model while no job has the device. Failures are logged. Throws a Refusal unless the server is ready, because the start itself loads
   * models, and two loads at the same time would open a model twice.
   */
  open(model: Model): void {
    const { engine, lifecycle, log } = this.#options
    refuseUnlessReady(lifecycle)
    void this.#dispatcher.exclusively(async () => {
      await engine
        .load(model)
        .catch((err: unknown) => log.error({ err, model: model.model }, 'a model could not be opened'))
    })
  }

  /**
   * Generates images of these sizes with a model once the device has been idle for a moment. Resolves with null if the process stops accepting
   * jobs before, or after a failure, which is logged.
   */
  async warm(model: Model, sizes?: readonly Size[]): Promise<Size[] | null> {
    const { engine, lifecycle, log } = this.#options
    do {
      await this.#dispatcher.waitUntilIdle()
      await sleep(IDLE_MS, undefined, { ref: false })
      if (lifecycle.status !== 'ready') return null
    } while (this.counts().running + this.counts().queued > 0)
    let warmed: Size[] | null = null
    await this.#dispatcher.exclusively(async () => {
      try {
        warmed = (await engine.warm(model, sizes)).sizes
      } catch (err) {
        log.error({ err, model: model.model, tier: model.tier }, 'a model could not be warmed up')
      }
    })
    return warmed
  }

  /** Unfinished jobs by class and state. */
  countByClass(): ReturnType<Dispatcher['countByClass']> {
    return this.#dispatcher.countByClass()
  }

  /** Whether the number of waiting jobs permits another one. */
  hasRoom(): boolean {
    return this.counts().queued < this.#options.queue
  }

  waitUntilIdle(): Promise<void> {
    return this.#dispatcher.waitUntilIdle()
  }

  /** Ends a queued job immediately and a started one before its next step. */
  #stop(job: Job): void {
    job.cancellation.abort()
    if (this.#dispatcher.remove(job)) this.#endCanceled(job)
  }

  #endCanceled(job: Job): void {
    append(job, createCanceledEvent(job))
    this.#retention.add(job)
  }

  #enqueue(job: Job): void {
    const { lifecycle, queue } = this.#options
    refuseUnlessReady(lifecycle)
    const rejected = this.#dispatcher.add(job)
    if (rejected) throw refusalOf(rejected, queue)
    this.prewarm(job.request)
    this.#jobs.set(job.id, job)
    this.#readers.add(job)
    this.#logOf(job).debug({ position: this.#dispatcher.position(job) }, 'job accepted')
  }

  #logOf(job: Job): Logger {
    return this.#options.log.child({ job: job.id, attempt: job.attempt })
  }
}

const MAX_RETRY_SECONDS = 3_600

function refusalOf(rejected: Rejection, queue: number): Refusal {
  const seconds = rejected.retryAfterMs === null ? undefined : Math.ceil(rejected.retryAfterMs / 1000)
  const retryAfter = seconds === undefined ? undefined : Math.min(MAX_RETRY_SECONDS, Math.max(1, seconds))
  const options = retryAfter === undefined ? {} : { retryAfter }
  if (rejected.reason === 'full') return new Refusal('queue_full', `${queue} jobs are already waiting`, options)
  const takes = `the job would end in ${Math.ceil(rejected.takesMs)} ms`
  if (rejected.reason === 'deadline')
    return new Refusal('deadline_unmet', `${takes}, after its max_latency_ms`, options)
  return new Refusal('queue_full', `the accepted jobs already take too long; ${takes}`, options)
}

/**
 * Whether a PUT restarts the job. A service failure permits a later attempt; a cancellation also permits the current one, unless that
 * attempt was canceled by request. All other outcomes are final.
 */
function mayRunAgain(job: Job, attempt: number): boolean {
  const end = outcomeOf(job)
  if (end?.type === 'failed') return attempt > job.attempt && end.code !== 'invalid_request'
  const isCanceled = end ? end.type === 'canceled' : job.cancellation.signal.aborted
  return isCanceled && attempt >= job.attempt
}

function refuseUnlessReady({ status }: Lifecycle): void {
  if (status === 'loading') throw new Refusal('loading', 'the server is loading its models', { retryAfter: 2 })
  if (status === 'draining') throw new Refusal('draining', 'the server is shutting down', { retryAfter: 1 })
  if (status === 'failed') throw new Refusal('failed', 'the server is broken and about to restart', { retryAfter: 10 })
}

// The jobs of this process: each is accepted once, queued, run, and kept for replay for some time after its end.
import type { Logger } from 'pino'
import type { Health, JobRequest } from '../contract.ts'
import type { Engine } from '../engine/engine.ts'
import { createEngineHealth } from './engine-health.ts'
import { createExpiringMap } from './expiring-map.ts'
import { append, createJob, type Job, outcome, parametersOf } from './job.ts'
import { createReaders } from './readers.ts'
import { Refusal } from './refusal.ts'
import { canceled, runJob } from './run-job.ts'
import { createScheduler } from './scheduler.ts'

/** State of the process, set by `main.ts`. */
export type Lifecycle = { status: Health['status'] }

export interface JobsOptions {
  engine: Engine
  lifecycle: Lifecycle
  /** How many jobs may wait. */
  queue: number
  /** How long, and within how many bytes in all, jobs that ended are kept for replay. */
  retainSeconds: number
  retainBytes: number
  /** A job without a reader for this long is canceled. */
  unreadSeconds: number
  log: Logger
  /** Called once when the engine no longer works, for example after a GPU fault. */
  onBroken: () => void
}

/** Bounds on remembered cancellations. A PUT overtaken by its DELETE arrives while the edge still retries. */
const CANCELLATIONS = { seconds: 600, most: 16_384 }

export type Jobs = ReturnType<typeof createJobs>

/** The registry of jobs over one engine. `submit` and `cancel` throw a Refusal. */
export function createJobs(options: JobsOptions) {
  const { engine, log } = options
  const jobs = new Map<string, Job>()
  /** Job id → the highest attempt canceled by request, even if the job was unknown at the time. */
  const canceledAttempts = createExpiringMap<number>(CANCELLATIONS)
  const retained = createRetention(options, (job) => {
    if (jobs.get(job.id) === job) jobs.delete(job.id)
  })
  const logOf = (job: Job) => log.child({ job: job.id, attempt: job.attempt })
  const health = createEngineHealth(engine, log, options.onBroken)
  const scheduler = createScheduler<Job>(async (job) => {
    const { fault } = await runJob(engine, job, logOf(job))
    retained.add(job)
    await health.record(job, fault)
  }, options.queue)
  const readers = createReaders(options.unreadSeconds * 1000, (job) => {
    logOf(job).info({ seconds: options.unreadSeconds }, 'job canceled: it has no reader')
    stop(job)
  })

  /** Ends a queued job immediately and a running one before its next step. */
  function stop(job: Job): void {
    job.cancellation.abort()
    if (scheduler.remove(job)) endCanceled(job)
  }

  function endCanceled(job: Job): void {
    append(job, canceled(job))
    retained.add(job)
  }

  function enqueue(job: Job): void {
    refuseUnlessReady(options.lifecycle)
    if (!scheduler.add(job)) {
      const retryAfter = Math.min(60, Math.max(1, Math.ceil(scheduler.secondsUntilFree())))
      throw new Refusal('queue_full', `${options.queue} jobs are already waiting`, { retryAfter })
    }
    jobs.set(job.id, job)
    readers.add(job)
    logOf(job).info({ position: scheduler.position(job) }, 'job accepted')
  }

  return {
    /** Accepts a new job, or returns the existing one with this id if its request is the same. A canceled attempt gets an ended job. */
    submit(id: string, request: JobRequest): Job {
      const known = jobs.get(id)
      if (known && known.parameters !== parametersOf(request))
        throw new Refusal('job_conflict', `job ${id} exists with another body`)
      const isCanceled = request.attempt <= (canceledAttempts.get(id) ?? 0)
      if (known && (isCanceled || !mayRunAgain(known, request.attempt))) {
        known.attempt = Math.max(known.attempt, request.attempt)
        return known
      }
      const job = createJob(id, request)
      if (isCanceled) {
        jobs.set(id, job)
        endCanceled(job)
        logOf(job).info('job canceled before it arrived')
      } else enqueue(job)
      return job
    },

    /** Registers a reader of the job until the returned function is called. */
    attach: (job: Job) => readers.attach(job),

    /**
     * Cancels a job before its next step; an ended job is unchanged. `attempt` is null if the caller did not give one. Canceling an unknown
     * job is remembered but still refused as job_not_found.
     */
    cancel(id: string, attempt: number | null): void {
      const job = jobs.get(id)
      if (job && attempt !== null && attempt < job.attempt)
        throw new Refusal('stale_attempt', `job ${id} is at attempt ${job.attempt}; given ${attempt}`)
      const through = Math.max(attempt ?? 0, job?.attempt ?? 0, canceledAttempts.get(id) ?? 0)
      if (through > 0) canceledAttempts.set(id, through)
      if (!job) throw new Refusal('job_not_found', `job ${id} is not known here`)
      if (outcome(job)) return
      logOf(job).info('job canceled by request')
      stop(job)
    },

    position: (job: Job) => scheduler.position(job),
    counts: () => scheduler.counts(),
    idle: () => scheduler.idle(),
  }
}

/**
 * Whether a PUT restarts the job: after a service failure only for a later attempt, after a cancellation for any attempt that was not
 * itself canceled by request. All other outcomes are final.
 */
function mayRunAgain(job: Job, attempt: number): boolean {
  const end = outcome(job)
  if (end?.type === 'failed') return attempt > job.attempt && end.code !== 'invalid_request'
  const isCanceled = end ? end.type === 'canceled' : job.cancellation.signal.aborted
  return isCanceled && attempt >= job.attempt
}

function refuseUnlessReady({ status }: Lifecycle): void {
  if (status === 'loading') throw new Refusal('loading', 'the server is loading its models', { retryAfter: 2 })
  if (status === 'draining') throw new Refusal('draining', 'the server is shutting down', { retryAfter: 1 })
  if (status === 'failed') throw new Refusal('failed', 'the server is broken and about to restart', { retryAfter: 10 })
}

/** Keeps jobs that ended until their time is over or newer ones need the bytes. */
function createRetention(limits: Pick<JobsOptions, 'retainSeconds' | 'retainBytes'>, forget: (job: Job) => void) {
  /** A timer holds its job, so it must end with it. */
  const timers = new Map<Job, NodeJS.Timeout>()
  let bytes = 0
  const drop = (job: Job) => {
    clearTimeout(timers.get(job))
    timers.delete(job)
    bytes -= job.bytes
    forget(job)
  }
  return {
    add(job: Job): void {
      timers.set(job, setTimeout(drop, limits.retainSeconds * 1000, job).unref())
      bytes += job.bytes
      for (const oldest of timers.keys()) if (bytes > limits.retainBytes) drop(oldest)
    },
  }
}

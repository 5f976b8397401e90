// The jobs of this process: taken on once, run in turn, replayed for a while after they ended.
import type { Logger } from 'pino'
import type { Health, JobRequest } from './contract.ts'
import type { Engine } from './engine.ts'
import { append, createJob, type Job, outcome, parametersOf } from './job.ts'
import { Refusal } from './refusal.ts'
import { canceled, runJob } from './run-job.ts'
import { createScheduler } from './scheduler.ts'

/** Where the process stands; `main.ts` moves it on. */
export type Lifecycle = { status: Health['status'] }

export interface JobsOptions {
  engine: Engine
  lifecycle: Lifecycle
  /** How many jobs may wait. */
  queue: number
  /** How long, and within how many bytes in all, jobs that ended are kept for replay. */
  retainSeconds: number
  retainBytes: number
  log: Logger
  /** Called once when jobs fail one after another for reasons of ours, as they do after a fault of the GPU. */
  onBroken: () => void
}

/** This many different jobs failing in a row show a process that will not recover by itself. */
const FAULTS_IN_A_ROW = 3

export type Jobs = ReturnType<typeof createJobs>

/** The registry of jobs over one engine. `submit` and `cancel` throw a Refusal. */
export function createJobs(options: JobsOptions) {
  const { engine, log } = options
  const jobs = new Map<string, Job>()
  const retained = createRetention(options, (job) => {
    if (jobs.get(job.id) === job) jobs.delete(job.id)
  })
  const logOf = (job: Job) => log.child({ job: job.id, attempt: job.attempt })
  const faulty = new Set<string>()
  const scheduler = createScheduler<Job>(async (job) => {
    const { fault } = await runJob(engine, job, logOf(job))
    retained.add(job)
    // A refusal or a canceled job shows neither that the engine works nor that it does not.
    if (fault) faulty.add(job.id)
    else if (outcome(job)?.type === 'succeeded') faulty.clear()
    if (faulty.size === FAULTS_IN_A_ROW) options.onBroken()
  }, options.queue)

  return {
    /** Takes on a new job, or attaches to the one with this id if it asks for the same images. */
    submit(id: string, request: JobRequest): Job {
      const known = jobs.get(id)
      if (known && known.parameters !== parametersOf(request))
        throw new Refusal('job_conflict', `job ${id} exists with another body`)
      if (known && !mayRunAgain(known, request.attempt)) {
        known.attempt = Math.max(known.attempt, request.attempt)
        return known
      }
      refuseUnlessReady(options.lifecycle)
      const job = createJob(id, request)
      if (!scheduler.add(job)) {
        const retryAfter = Math.min(60, Math.max(1, Math.ceil(scheduler.secondsUntilFree())))
        throw new Refusal('queue_full', `${options.queue} jobs are waiting already`, { retryAfter })
      }
      jobs.set(id, job)
      logOf(job).info({ position: scheduler.position(job) }, 'job accepted')
      return job
    },

    /** Cancels between two steps; a job that ended stays as it is. `attempt` is null when the caller's is not known. */
    cancel(id: string, attempt: number | null): void {
      const job = jobs.get(id)
      if (!job) throw new Refusal('job_not_found', `job ${id} is not known here`)
      if (attempt !== null && attempt < job.attempt)
        throw new Refusal('stale_attempt', `job ${id} is at attempt ${job.attempt}; given ${attempt}`)
      if (outcome(job)) return
      job.cancellation.abort()
      if (!scheduler.remove(job)) return
      append(job, canceled(job))
      retained.add(job)
      logOf(job).info('job canceled while it waited')
    },

    position: (job: Job) => scheduler.position(job),
    counts: () => scheduler.counts(),
    idle: () => scheduler.idle(),
  }
}

/** A job that failed for a reason of ours runs again when a later attempt asks; every other end is final. */
function mayRunAgain(job: Job, attempt: number): boolean {
  const end = outcome(job)
  return attempt > job.attempt && end?.type === 'failed' && end.code !== 'invalid_request'
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

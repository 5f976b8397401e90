// Runs a trace through the scheduler of the GPU function, or first come, first served, with fixed step times.
import { Admission } from '../../../gpu-fn/scheduler/admission.ts'
import { Scheduler } from '../../../gpu-fn/scheduler/scheduler.ts'
import type { Task } from '../../../gpu-fn/scheduler/task.ts'
import { type Arrival, type CostTable, deviceMs, type JobClass } from './trace.ts'

/** Milliseconds: first submission, acceptance, end. */
export type Served = { account: string; kind: JobClass; submitted: number; accepted: number; ended: number }
/** A refusal, with the promised and the actual time of acceptance in milliseconds after it. */
export type Refusal = { promised: number; actual: number; returns: number }
export type Outcome = { served: Served[]; refusals: Refusal[] /** Of the last job. */; endMs: number; busyMs: number }

type Job = Arrival & { task: Task; turns: number[]; file: number; accepted: number }
type Policy = {
  add(job: Job, now: number): number | null
  next(now: number): Job | undefined
  charge(job: Job, ms: number, now: number): void
  end(job: Job, now: number): void
}

/** Accepts every job and runs each to its end in order of arrival. */
export function firstComeFirstServed(): Policy {
  const queue: Job[] = []
  return {
    add: (job) => {
      queue.push(job)
      return null
    },
    next: () => queue[0],
    charge: () => {},
    end: () => void queue.shift(),
  }
}

/** The scheduler and the admission of the GPU function. */
export function stepScheduler(agingMs: number): Policy {
  const scheduler = new Scheduler({ agingMs })
  const admission = new Admission(scheduler, agingMs)
  const jobs = new Map<string, Job>()
  return {
    add(job, now) {
      const task = { ...job.task, arrived: now }
      job.task = task
      const refused = admission.refuse(task, 0, now)
      if (refused) return refused.retryAfterMs
      scheduler.add(task)
      jobs.set(job.id, job)
      return null
    },
    next: (now) => {
      const task = scheduler.next(now)
      return task && jobs.get(task.id)
    },
    charge: (job, ms, now) => scheduler.charge(job.task, ms, Math.max(0, job.task.left - ms), now),
    end(job, now) {
      scheduler.remove(job.id, now)
      jobs.delete(job.id)
    },
  }
}

const jobOf = (arrival: Arrival, costs: CostTable): Job => {
  const own = costs[arrival.kind]
  const task: Task = {
    ...{ id: arrival.id, tenant: arrival.account, weight: 1, interactive: arrival.kind === 'turbo', group: 'large' },
    ...{ arrived: arrival.at, deadline: null, left: deviceMs(own), started: false },
  }
  const turns = [own.encode, ...new Array<number>(own.steps).fill(own.step), own.decode]
  return { ...arrival, task, turns, file: own.file, accepted: arrival.at }
}

/** A refused job returns after the promised time, as a whole number of seconds if `wholeSeconds`. */
export function simulate(trace: readonly Arrival[], costs: CostTable, policy: Policy, wholeSeconds = true): Outcome {
  const served: Served[] = []
  const refusals: Refusal[] = []
  const pending: { at: number; job: Job; refused?: { at: number; promised: number; returns: number } }[] = trace.map(
    (arrival) => ({ at: arrival.at, job: jobOf(arrival, costs) }),
  )
  let [now, busyMs] = [0, 0]
  const submit = ({ job, refused, at }: (typeof pending)[number]) => {
    const retryAfterMs = policy.add(job, at)
    if (retryAfterMs === null) {
      job.accepted = at
      if (refused) refusals.push({ promised: refused.promised, actual: at - refused.at, returns: refused.returns })
      return
    }
    const delay = wholeSeconds ? Math.ceil(retryAfterMs / 1000) * 1000 : retryAfterMs
    const first = refused ?? { at, promised: delay, returns: 0 }
    const again = { at: at + delay, job, refused: { ...first, returns: first.returns + 1 } }
    const place = pending.findIndex((each) => each.at > again.at)
    pending.splice(place < 0 ? pending.length : place, 0, again)
  }
  for (;;) {
    while (pending[0] && pending[0].at <= now) submit(pending.shift()!)
    const job = policy.next(now)
    if (!job) {
      if (!pending[0]) break
      now = pending[0].at
      continue
    }
    const ms = job.turns.shift()!
    now += ms
    busyMs += ms
    policy.charge(job, ms, now)
    if (job.turns.length > 0) continue
    policy.end(job, now)
    const { account, kind, at, accepted, file } = job
    served.push({ account, kind, submitted: at, accepted, ended: now + file })
  }
  return { served, refusals, endMs: now, busyMs }
}

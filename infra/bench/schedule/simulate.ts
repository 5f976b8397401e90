// Runs a trace through the scheduler of the GPU function, or first come, first served, with fixed step times.
import { Admission } from '../../../gpu-fn/scheduler/admission.ts'
import { Scheduler } from '../../../gpu-fn/scheduler/scheduler.ts'
import type { Task } from '../../../gpu-fn/scheduler/task.ts'
import { computePauseMs, type Outcome, type Refusal, type ServedJob } from './outcome.ts'
import { type Arrival, type CostTable, estimateDeviceMs } from './trace.ts'

/** As in gpu-fn/server/dispatcher.ts. */
const UNCLAIMED_MS = 10_000

type Job = Arrival & { task: Task; turns: number[]; file: number; accepted: number }
type Policy = {
  add(job: Job, now: number): number | null
  next(now: number): Job | undefined
  charge(job: Job, ms: number, now: number): void
  end(job: Job, now: number): void
}

/** Accepts every job and runs each to completion in order of arrival. */
export function createFirstComeFirstServed(): Policy {
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
  const admission = new Admission(scheduler, agingMs, UNCLAIMED_MS)
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
    ...{ arrived: arrival.at, deadline: null, left: estimateDeviceMs(own), started: false },
  }
  const turns = [own.encode, ...new Array<number>(own.steps).fill(own.step), own.decode]
  return { ...arrival, task, turns, file: own.file, accepted: arrival.at }
}

type Submission = { at: number; job: Job; refusal?: Refusal }

/** Refused jobs are submitted again as in a real run, with Retry-After in whole seconds. */
export function simulate(trace: readonly Arrival[], costs: CostTable, policy: Policy): Outcome {
  const served: ServedJob[] = []
  const refusals: Refusal[] = []
  const submissions: Submission[] = trace.map((arrival) => ({ at: arrival.at, job: jobOf(arrival, costs) }))
  let now = 0
  const submit = ({ job, refusal: earlier, at }: Submission) => {
    const retryAfterMs = policy.add(job, at)
    if (retryAfterMs === null) {
      job.accepted = at
      if (earlier) earlier.accepted = at
      return
    }
    const promised = Math.max(1, Math.ceil(retryAfterMs / 1000)) * 1000
    const refusal = earlier ?? { at, promised, accepted: null }
    if (!earlier) refusals.push(refusal)
    const again: Submission = { at: at + computePauseMs(promised), job, refusal }
    const place = submissions.findLastIndex((each) => each.at <= again.at)
    submissions.splice(place + 1, 0, again)
  }
  for (;;) {
    while (submissions[0] && submissions[0].at <= now) submit(submissions.shift()!)
    const job = policy.next(now)
    if (!job) {
      if (!submissions[0]) break
      now = submissions[0].at
      continue
    }
    const ms = job.turns.shift()!
    now += ms
    policy.charge(job, ms, now)
    if (job.turns.length > 0) continue
    policy.end(job, now)
    const { account, kind, at, accepted, file } = job
    served.push({ account, kind, submitted: at, accepted, ended: now + file })
  }
  return { served, refusals, endMs: now }
}

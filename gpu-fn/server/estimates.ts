// The device time of jobs, estimated from measured turns.
import { countEvaluations, type JobRequest, stepsRun } from '../contract.ts'
import { type Shape, StepTimes, type Work } from '../scheduler/step-times.ts'
import type { Task } from '../scheduler/task.ts'
import { isInteractive, type Job } from './job.ts'
import type { Turn } from './run-job.ts'

const stepsOf = ({ steps, strength }: JobRequest) => stepsRun(steps, strength)
const workOf = (request: JobRequest): Work => ({
  encode: 1,
  step: stepsOf(request) * request.count,
  decode: request.count,
})
const shapeOf = (request: JobRequest): Shape => ({
  group: `${request.model}:${request.tier}`,
  pixels: request.width * request.height,
  samples: countEvaluations(request) / stepsOf(request),
})

export class Estimates {
  readonly #times = new StepTimes()
  readonly #loaded = new Set<string>()
  /** The work that accepted jobs have left. */
  readonly #left = new Map<Job, Work>()

  /** The job for the scheduler. */
  taskOf({ id, request, acceptedAt }: Job): Task {
    const { tenant = '', weight = 1, max_latency_ms = null } = request.schedule ?? {}
    const shape = shapeOf(request)
    const deadline = max_latency_ms === null ? null : acceptedAt + max_latency_ms
    const left = this.#times.total(shape, workOf(request))
    return {
      ...{ id, tenant, weight, interactive: isInteractive(request), group: shape.group },
      ...{ arrived: acceptedAt, deadline, left, started: false },
    }
  }

  /** Milliseconds to load the job's model; 0 if it was loaded before. */
  loadMs({ request }: Job): number {
    const shape = shapeOf(request)
    return this.#loaded.has(shape.group) ? 0 : this.#times.estimate(shape, 'load')
  }

  /** Records a turn of a job. `ms`: its share of the device's time. */
  record(job: Job, { phase }: Turn, ms: number): void {
    if (phase === 'file' || phase === 'occupied') return
    const shape = shapeOf(job.request)
    if (phase === 'load') this.#loaded.add(shape.group)
    this.#times.record(shape, phase, ms)
    if (phase === 'load') return
    const left = this.#left.get(job) ?? workOf(job.request)
    this.#left.set(job, { ...left, [phase]: Math.max(0, left[phase] - 1) })
  }

  /** Milliseconds of device time until the end of an accepted job. */
  leftMs(job: Job): number {
    return this.#times.total(shapeOf(job.request), this.#left.get(job) ?? workOf(job.request))
  }

  forget(job: Job): void {
    this.#left.delete(job)
  }
}

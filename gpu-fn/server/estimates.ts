// The device time of jobs, estimated from measured turns.
import { countEvaluations, type JobRequest, reusedSteps, stepsRun } from '../contract.ts'
import { type Shape, StepTimes, type Work } from '../scheduler/step-times.ts'
import type { Task } from '../scheduler/task.ts'
import { isInteractive, type Job } from './job.ts'
import type { Turn } from './run-job.ts'

/** The steps of an image in which the denoiser runs. */
const stepsOf = (request: JobRequest) => stepsRun(request.steps, request.strength) - reusedSteps(request).size
const workOf = (request: JobRequest): Work => ({
  encode: 1,
  step: stepsOf(request) * request.count,
  decode: request.count,
})
const groupOf = ({ model, tier }: JobRequest) => `${model}:${tier}`

export class Estimates {
  readonly #times = new StepTimes()
  /** The devices of each loaded model. */
  readonly #devices = new Map<string, number>()
  /** The work that accepted jobs have left. */
  readonly #left = new Map<Job, Work>()

  /** Whether the job would take less time on several devices than on one. */
  canDivide({ request }: Job): boolean {
    return countEvaluations(request, this.#devices.get(groupOf(request))) < countEvaluations(request)
  }

  /** The job for the scheduler. */
  taskOf(job: Job): Task {
    const { id, request, acceptedAt } = job
    const { tenant = '', weight = 1, max_latency_ms = null } = request.schedule ?? {}
    const shape = this.#shapeOf(job)
    const deadline = max_latency_ms === null ? null : acceptedAt + max_latency_ms
    const left = this.#times.total(shape, workOf(request))
    return {
      ...{ id, tenant, weight, interactive: isInteractive(request), group: shape.group },
      ...{ arrived: acceptedAt, deadline, left, started: false },
    }
  }

  /** Milliseconds to load the job's model; 0 if it was loaded before. */
  loadMs(job: Job): number {
    const shape = this.#shapeOf(job)
    return this.#devices.has(shape.group) ? 0 : this.#times.estimate(shape, 'load')
  }

  /** Records a turn of a job. `ms`: its share of the device's time. */
  record(job: Job, { phase, load }: Turn, ms: number): void {
    if (phase === 'file' || phase === 'occupied') return
    const shape = this.#shapeOf(job)
    if (phase === 'load') this.#devices.set(shape.group, load?.devices ?? 1)
    this.#times.record(shape, phase, ms)
    if (phase === 'load') return
    const left = this.#left.get(job) ?? workOf(job.request)
    this.#left.set(job, { ...left, [phase]: Math.max(0, left[phase] - 1) })
  }

  /** Milliseconds of device time until the end of an accepted job. */
  leftMs(job: Job): number {
    return this.#times.total(this.#shapeOf(job), this.#left.get(job) ?? workOf(job.request))
  }

  forget(job: Job): void {
    this.#left.delete(job)
  }

  #shapeOf({ request, parallel }: Job): Shape {
    const group = groupOf(request)
    const devices = parallel ? (this.#devices.get(group) ?? 1) : 1
    const samples = countEvaluations(request, devices) / stepsOf(request)
    return { group, pixels: request.width * request.height, samples, devices }
  }
}

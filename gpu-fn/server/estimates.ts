// The device time of jobs, estimated from measured turns.
import { type ComputedStep, countEvaluations, hasGuidance, type JobRequest, listComputedSteps } from '../contract.ts'
import { type Phase, type Shape, StepTimes } from '../scheduler/step-times.ts'
import type { Task } from '../scheduler/task.ts'
import { isInteractive, type Job } from './job.ts'
import type { Turn } from './run-job.ts'

/** Number of remaining phases of a job. Remaining steps are the last ones, because steps run in order. */
type Left = { encode: number; step: number; decode: number }

const groupOf = ({ model, tier }: JobRequest) => `${model}:${tier}`

export class Estimates {
  readonly #times = new StepTimes()
  /** The devices of each loaded model. */
  readonly #devices = new Map<string, number>()
  /** Remaining phases of accepted jobs. */
  readonly #left = new Map<Job, Left>()

  /** Whether the job would take less time on several devices than on one. */
  canDivide({ request }: Job): boolean {
    return countEvaluations(request, this.#devices.get(groupOf(request))) < countEvaluations(request)
  }

  /** The job for the scheduler. */
  taskOf(job: Job): Task {
    const { id, request, acceptedAt } = job
    const { tenant = '', weight = 1, max_latency_ms = null } = request.schedule ?? {}
    const deadline = max_latency_ms === null ? null : acceptedAt + max_latency_ms
    return {
      ...{ id, tenant, weight, interactive: isInteractive(request), group: groupOf(request) },
      ...{ arrived: acceptedAt, deadline, left: this.#total(job, this.#allOf(job)), started: false },
    }
  }

  /** Milliseconds to load the job's model; 0 if it was loaded before. */
  loadMs(job: Job): number {
    return this.#devices.has(groupOf(job.request)) ? 0 : this.#times.estimate(this.#shapeOf(job, 'load'), 'load')
  }

  /** Records a turn of a job. `ms`: its share of the device's time. */
  record(job: Job, { phase, load, step }: Turn, ms: number): void {
    if (phase === 'repeat') this.#left.delete(job)
    if (phase === 'file' || phase === 'occupied' || phase === 'repeat') return
    if (phase === 'load') this.#devices.set(groupOf(job.request), load?.devices ?? 1)
    const computed = this.#stepsOf(job).find((each) => each.step === step)
    this.#times.record(this.#shapeOf(job, phase, computed), phase, ms)
    if (phase === 'load') return
    const left = this.#left.get(job) ?? this.#allOf(job)
    this.#left.set(job, { ...left, [phase]: Math.max(0, left[phase] - 1) })
  }

  /** Milliseconds of device time until the end of an accepted job. */
  leftMs(job: Job): number {
    return this.#total(job, this.#left.get(job) ?? this.#allOf(job))
  }

  forget(job: Job): void {
    this.#left.delete(job)
  }

  #allOf(job: Job): Left {
    const { count } = job.request
    return { encode: 1, step: this.#stepsOf(job).length * count, decode: count }
  }

  /** Device time of these phases, in milliseconds. */
  #total(job: Job, left: Left): number {
    const steps = Array.from({ length: job.request.count }, () => this.#stepsOf(job)).flat()
    const alike = Object.groupBy(steps.slice(steps.length - left.step), ({ evaluations, controls }) =>
      [evaluations, controls].join(' '),
    )
    const ofSteps = Object.values(alike).map((each = []) => {
      return each.length * this.#times.estimate(this.#shapeOf(job, 'step', each[0]), 'step')
    })
    const of = (phase: 'encode' | 'decode') =>
      left[phase] === 0 ? 0 : left[phase] * this.#times.estimate(this.#shapeOf(job, phase), phase)
    return ofSteps.reduce((sum, ms) => sum + ms, of('encode') + of('decode'))
  }

  #stepsOf(job: Job): ComputedStep[] {
    return listComputedSteps(job.request, this.#devicesOf(job))
  }

  #devicesOf({ request, parallel }: Job): number {
    return parallel ? (this.#devices.get(groupOf(request)) ?? 1) : 1
  }

  /** Shape of a phase. Guidance and ControlNets affect only encoding and steps. */
  #shapeOf(job: Job, phase: Phase, step?: ComputedStep): Shape {
    const { request } = job
    const { width, height, controls = [] } = request
    const shape = { group: groupOf(request), pixels: width * height, devices: this.#devicesOf(job) }
    if (phase === 'step') return { ...shape, samples: step?.evaluations ?? 1, controls: step?.controls ?? 0 }
    if (phase === 'encode') return { ...shape, samples: hasGuidance(request) ? 2 : 1, controls: controls.length }
    return { ...shape, samples: 1, controls: 0 }
  }
}

import { expect, test } from 'vitest'
import type { JobRequest } from '../../../gpu-fn/contract.ts'
import { Estimates } from '../../../gpu-fn/server/estimates.ts'
import { createJob } from '../../../gpu-fn/server/job.ts'
import { createJobBody } from '../../support/gpu/client.ts'

const STEP_MS = 50
const control = { id: 'edges', scale: 1 }
const controls = [control]

/** The estimated milliseconds of the steps of a job, after a job of four steps without guidance. */
function estimateStepsMs(overrides: Partial<JobRequest>, devices = 1): number {
  const estimates = new Estimates()
  const measured = createJob('measured', createJobBody(), {})
  estimates.record(measured, { phase: 'load', load: { seconds: 0, devices } }, 0)
  estimates.record(measured, { phase: 'encode' }, 0)
  for (let step = 0; step < 4; step++) estimates.record(measured, { phase: 'step', step }, STEP_MS)
  estimates.record(measured, { phase: 'decode' }, 0)
  expect(estimates.leftMs(measured)).toBe(0)
  const next = createJob('next', createJobBody({ steps: 50, ...overrides }), {})
  next.parallel = estimates.canDivide(next)
  return estimates.taskOf(next).left
}

test.for([
  [{}, 50],
  [{ count: 2 }, 100],
  [{ strength: 0.2 }, 10],
  [{ guidance_scale: 4 }, 100],
  [{ sampler: 'heun' }, 99],
  [{ guidance_scale: 4, guidance_interval: { start: 0, stop: 0.5 } }, 75],
  [{ guidance_scale: 4, cache: 'fast' }, 60],
  [{ guidance_scale: 4, skip_layer_guidance: { scale: 2.5, start: 0, stop: 0.2 } }, 109],
  [{ guidance_scale: 4, controls }, 150],
  [{ guidance_scale: 4, controls: [{ ...control, start: 0.2, stop: 0.6 }] }, 120],
  [{ guidance_scale: 4, controls, cache: 'fast' }, 90],
] satisfies [Partial<JobRequest>, number][])('%j takes %d evaluations of the denoiser', ([overrides, evaluations]) => {
  expect(estimateStepsMs(overrides)).toBeCloseTo(evaluations * STEP_MS)
})

const skip_layer_guidance = { layers: [1], scale: 2, start: 0, stop: 1 }

test.for([
  [{ guidance_scale: 4 }, 2, 50],
  [{ guidance_scale: 4 }, 3, 50],
  [{ guidance_scale: 4, guidance_interval: { start: 0, stop: 0.5 } }, 2, 50],
  [{ guidance_scale: 4, skip_layer_guidance }, 2, 99],
  [{ guidance_scale: 4, skip_layer_guidance }, 3, 50],
  [{}, 2, 50],
  // A job with a ControlNet is not divided.
  [{ guidance_scale: 4, controls }, 2, 150],
] satisfies [Partial<JobRequest>, number, number][])(
  '%j on %d devices takes %d evaluations of the device with the most',
  ([overrides, devices, evaluations]) => {
    expect(estimateStepsMs(overrides, devices)).toBeCloseTo(evaluations * STEP_MS)
  },
)

test('steps on several devices have their own measurements', () => {
  const estimates = new Estimates()
  const jobOf = (parallel: boolean) =>
    Object.assign(createJob('job', createJobBody({ guidance_scale: 4 }), {}), { parallel })
  estimates.record(jobOf(false), { phase: 'load', load: { seconds: 0, devices: 2 } }, 0)
  estimates.record(jobOf(false), { phase: 'step', step: 0 }, 80)
  const estimateStepMs = (parallel: boolean) => {
    const job = jobOf(parallel)
    const before = estimates.leftMs(job)
    estimates.record(job, { phase: 'step', step: 0 }, parallel ? 45 : 80)
    return before - estimates.leftMs(job)
  }
  expect(estimateStepMs(false)).toBeCloseTo(80)
  estimateStepMs(true)
  expect(estimateStepMs(true)).toBeCloseTo(45)
  expect(estimateStepMs(false)).toBeCloseTo(80)
})

test('steps with a ControlNet, or without guidance, do not affect estimates of other steps', () => {
  const estimates = new Estimates()
  const guidance = { guidance_scale: 4, steps: 8 }
  const jobOf = (overrides: Partial<JobRequest>) => createJob('job', createJobBody({ ...guidance, ...overrides }), {})
  const run = (overrides: Partial<JobRequest>, msOf: (step: number) => number) => {
    const job = jobOf(overrides)
    estimates.record(job, { phase: 'encode' }, 0)
    for (let step = 0; step < 8; step++) estimates.record(job, { phase: 'step', step }, msOf(step))
    estimates.record(job, { phase: 'decode' }, 0)
    expect(estimates.leftMs(job)).toBe(0)
  }
  const half = { controls: [{ ...control, stop: 0.5 }] }
  const halfGuided = { guidance_interval: { start: 0, stop: 0.5 } }
  const skipping = { skip_layer_guidance: { layers: [1], scale: 2, start: 0, stop: 1 } }
  run({}, () => 80)
  run(half, (step) => (step < 4 ? 130 : 80))
  run(halfGuided, (step) => (step < 4 ? 80 : 45))
  const leftOf = (overrides: Partial<JobRequest>) => estimates.taskOf(jobOf(overrides)).left
  expect(leftOf({})).toBe(8 * 80)
  expect(leftOf({ controls })).toBe(8 * 130)
  expect(leftOf(half)).toBe(4 * 130 + 4 * 80)
  expect(leftOf(halfGuided)).toBe(4 * 80 + 4 * 45)
  // Three samples, and two samples with a ControlNet, are both three evaluations.
  expect(leftOf(skipping)).toBe(80 + 7 * 120)
})

test('only guidance can be divided, and only over several devices', () => {
  const estimates = new Estimates()
  const guided = createJob('guided', createJobBody({ guidance_scale: 4 }), {})
  expect(estimates.canDivide(guided)).toBe(false)
  estimates.record(guided, { phase: 'load', load: { seconds: 0, devices: 1 } }, 0)
  expect(estimates.canDivide(guided)).toBe(false)
  estimates.record(guided, { phase: 'load', load: { seconds: 0, devices: 2 } }, 0)
  expect(estimates.canDivide(guided)).toBe(true)
  expect(estimates.canDivide(createJob('plain', createJobBody(), {}))).toBe(false)
  expect(estimates.canDivide(createJob('controlled', createJobBody({ guidance_scale: 4, controls }), {}))).toBe(false)
})

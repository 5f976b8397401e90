import { expect, test } from 'vitest'
import type { JobRequest } from '../../../gpu-fn/contract.ts'
import { Estimates } from '../../../gpu-fn/server/estimates.ts'
import { createJob } from '../../../gpu-fn/server/job.ts'
import { jobBody } from '../../support/gpu/client.ts'

const STEP_MS = 50

/** The estimated milliseconds of the steps of a job, after a job of four steps without guidance. */
function stepsMs(overrides: Partial<JobRequest>): number {
  const estimates = new Estimates()
  const measured = createJob('measured', jobBody(), {})
  estimates.record(measured, { phase: 'encode' }, 0)
  for (let step = 0; step < 4; step++) estimates.record(measured, { phase: 'step' }, STEP_MS)
  estimates.record(measured, { phase: 'decode' }, 0)
  expect(estimates.leftMs(measured)).toBe(0)
  return estimates.taskOf(createJob('next', jobBody({ steps: 50, ...overrides }), {})).left
}

test.for([
  [{}, 50],
  [{ count: 2 }, 100],
  [{ strength: 0.2 }, 10],
  [{ guidance_scale: 4 }, 100],
  [{ sampler: 'heun' }, 99],
  [{ guidance_scale: 4, guidance_interval: { start: 0, stop: 0.5 } }, 75],
  [{ guidance_scale: 4, skip_layer_guidance: { scale: 2.5, start: 0, stop: 0.2 } }, 109],
] satisfies [Partial<JobRequest>, number][])('%j takes %d evaluations of the denoiser', ([overrides, evaluations]) => {
  expect(stepsMs(overrides)).toBeCloseTo(evaluations * STEP_MS)
})

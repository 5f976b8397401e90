import { expect, test } from 'vitest'
import type { JobRequest } from '../../../gpu-fn/contract.ts'
import { batchKeyOf, computeLargestBatch } from '../../../gpu-fn/server/batch-limit.ts'
import { createJobBody } from '../../support/gpu/client.ts'

const SMALL = { width: 512, height: 512 }

test.for([
  [{}, 4],
  [{ guidance_scale: 4 }, 2],
  [{ width: 1024, height: 1024 }, 1],
  [{ loras: [{ id: 'style', scale: 1 }] }, 1],
  [{ controls: [{ id: 'edges', scale: 1 }] }, 1],
  [{ guidance_scale: 4, skip_layer_guidance: { layers: [1], scale: 2, start: 0, stop: 1 } }, 1],
] satisfies [Partial<JobRequest>, number][])('%j: %d jobs may share a run', ([overrides, max]) => {
  expect(computeLargestBatch(createJobBody({ ...SMALL, ...overrides }))).toBe(max)
})

test('a job with a ControlNet does not join the run of another job', () => {
  const [plain, controlled] = [{}, { controls: [{ id: 'edges', scale: 1 }] }].map((each) =>
    createJobBody({ ...SMALL, ...each }),
  )
  expect(batchKeyOf(controlled!)).not.toBe(batchKeyOf(plain!))
})

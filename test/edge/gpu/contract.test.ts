// The worker tests' fake GPU function, against the wire contract. test/gpu-fn/contract.test.ts tests the real one.
import { env } from 'cloudflare:workers'
import { vi } from 'vitest'
import { describeGpu } from '../../support/gpu/conformance.ts'
import { fakeGpu, untilCanceled, works } from '../support/fake-gpu.ts'

const LONG_STEPS = 100

describeGpu('the fake GPU', async () => {
  fakeGpu((seen) => (seen.request.steps === LONG_STEPS ? untilCanceled(3)(seen) : works(seen)))
  return {
    send: (path, init) => fetch(`${env.GPU_URL}${path}`, init),
    signingKey: env.GPU_SIGNING_KEY,
    model: 'tiny',
    long: { steps: LONG_STEPS },
    stop: async () => vi.restoreAllMocks(),
  }
})

// The GPU function and the benchmarks' stub of it, against the wire contract. test/edge/gpu/contract.test.ts tests the fake of the worker's
// tests.
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { LIMITS } from '../../gpu-fn/contract.ts'
import { compileTiny } from '../support/checkpoints/compile.ts'
import { edgeKeys } from '../support/gpu/client.ts'
import { describeGpu } from '../support/gpu/conformance.ts'
import { startGpuProcess } from '../support/gpu/process.ts'

const signingKey = JSON.stringify(edgeKeys.privateKey.export({ format: 'jwk' }))

describeGpu('the GPU function with a model', async () => {
  const packages = await mkdtemp(path.join(tmpdir(), 'octet-packages-'))
  await cp(await compileTiny({ tier: 'fp8' }), path.join(packages, 'custom'), { recursive: true })
  const gpu = await startGpuProcess(packages, { OCTET_PRELOAD: 'custom:fp8' })
  await gpu.ready()
  return {
    send: (where, init) => fetch(`${gpu.url}${where}`, init),
    signingKey,
    model: 'custom',
    long: { steps: LIMITS.steps.max, count: LIMITS.count.max },
    stop: async () => {
      await gpu[Symbol.asyncDispose]()
      await rm(packages, { recursive: true })
    },
  }
})

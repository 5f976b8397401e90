// A deployment with stubs of the vendors' commands, but with the real GPU function and worker, which generate images.
import { mkdtemp, readFile } from 'node:fs/promises'
import path from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { deploySteps } from '../../infra/deploy/deploy-steps.ts'
import { runPlan } from '../../infra/deploy/plan.ts'
import { prepareBuiltInPackages } from '../../infra/local/models/built-in-model.ts'
import { startGpu } from '../../infra/local/servers/gpu.ts'
import { type LocalOffer, startWorker } from '../../infra/local/servers/worker.ts'
import { useScratch } from '../support/scratch.ts'
import { createVendors, type Vendors } from '../support/vendors.ts'

const scratch = useScratch()
const OFFER = {
  route: 'turbo',
  model: 'nano-turbo',
  tier: 'fp8',
  steps: 4,
  guidance_scale: 1,
  sampler: 'euler',
  width: 256,
  height: 256,
} as const
const stops: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop()
})

/** Stubs of the vendors' commands that start the real program on a deployment. */
async function createRealVendors(
  change: (secrets: Record<string, string>) => Record<string, string> = (secrets) => secrets,
): Promise<Vendors> {
  const where = { gpuUrl: '', workerUrl: '' }
  const vendors = await createVendors(where)
  const { config, exec, state } = vendors.world
  config.worker.offers = [{ ...OFFER, endpoint: 'default', max_pixels: 147_456, max_side: 512 }]
  config.gpu.models = ['nano-turbo:fp8']
  vendors.things.add('volume /nano-turbo-fp8')
  vendors.world.exec = async (command, options) => {
    const text = command.slice(0, 2).join(' ')
    if (text === 'modal deploy') {
      const { OCTET_EDGE_PUBLIC_KEY: edgePublicKey } = JSON.parse(await readFile(state.gpuSecrets, 'utf8'))
      const { directory } = await prepareBuiltInPackages()
      const gpu = await startGpu({ packages: directory, edgePublicKey, preload: config.gpu.models.join() })
      stops.push(gpu.stop)
      where.gpuUrl = gpu.url
    }
    if (text === 'wrangler deploy') {
      const secrets = change(JSON.parse(await readFile(state.workerSecrets, 'utf8')))
      const persist = await mkdtemp(path.join(scratch.directory, 'state-'))
      const catalog = { offers: config.worker.offers as LocalOffer[] }
      const worker = await startWorker({ gpuUrl: state.gpuUrl, persist, secrets: secrets as never, catalog })
      stops.push(worker.stop)
      where.workerUrl = worker.url
    }
    return exec(command, options)
  }
  return vendors
}

const createSteps = () => deploySteps({ file: path.join(scratch.directory, 'secrets.json'), onModal: true, env: {} })

test('generates an image on the GPU function, then one through the worker', async () => {
  const { world, said } = await createRealVendors()
  await runPlan(createSteps(), world)
  expect(said.filter((line) => /image of \d{3,} bytes/.test(line))).toHaveLength(2)
})

test('a worker whose key the GPU function rejects fails the smoke test with advice', async () => {
  const { world } = await createRealVendors((secrets) => {
    const { d, ...key } = JSON.parse(secrets.GPU_SIGNING_KEY!)
    const other = JSON.parse(JSON.parse(JSON.stringify(secrets.RECEIPT_SIGNING_KEYS!)))[0]
    return { ...secrets, GPU_SIGNING_KEY: JSON.stringify({ ...key, d: other.d ?? d, x: other.x }) }
  })
  await expect(runPlan(createSteps(), world)).rejects.toMatchObject({
    ...{ step: 'smoke-worker', message: expect.stringMatching(/it returned 500[\s\S]*npx wrangler rollback/) },
  })
})

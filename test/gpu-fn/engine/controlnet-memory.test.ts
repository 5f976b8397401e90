// ControlNets under a memory budget below the requirement of the largest image with a ControlNet.
import { cp } from 'node:fs/promises'
import path from 'node:path'
import { pino } from 'pino'
import { beforeAll, expect, onTestFinished, test } from 'vitest'
import type { JobRequest } from '../../../gpu-fn/contract.ts'
import { type EngineOptions, PackageEngine } from '../../../gpu-fn/engine/package-engine.ts'
import type { PipelineEvent } from '../../../gpu-fn/pipeline/events.ts'
import { openControlnet } from '../../../gpu-fn/weights/additions/controlnet-packages.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { Verifier } from '../../../gpu-fn/weights/verification.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { compileTinyControlnet } from '../../support/checkpoints/controlnet.ts'
import { findMinimumBudget } from '../../support/checkpoints/minimum-budget.ts'
import { createJobBody } from '../../support/gpu/client.ts'
import { useScratch } from '../../support/scratch.ts'

const LARGE = { width: 288, height: 288 }
const SMALL = { width: 64, height: 64 }
const CONTROLS = [{ id: 'edges', scale: 1 }]

const scratch = useScratch()
let packages: string
/** Memory budget for the large size, or the small size with the ControlNet. */
let budget: number
beforeAll(async () => {
  packages = path.join(scratch.root, 'packages')
  const directory = path.join(packages, 'custom')
  await cp(await compileTiny({ variant: 'tiny-large', t5Layers: 1 }), directory, { recursive: true })
  await compileTinyControlnet(path.join(packages, 'controlnets', 'edges'), { type: 'canny' })
  const pkg = await openPackage(directory)
  const controlnet = await openControlnet(path.join(packages, 'controlnets', 'edges'))
  budget = Math.max(findMinimumBudget(pkg, LARGE), findMinimumBudget(pkg, SMALL, controlnet))
  expect(findMinimumBudget(pkg, LARGE, controlnet)).toBeGreaterThan(budget)
})

async function startEngine(options: Partial<EngineOptions> = {}) {
  const log = pino({ level: 'silent' })
  const verifier = new Verifier({ directory: path.join(scratch.root, 'cache'), log })
  const limits = { memoryBytes: 1e9, stallSeconds: 60, onStall: () => {} }
  const engine = new PackageEngine({ packages, verifier, log, ...limits, ...options })
  onTestFinished(() => engine.stop())
  await engine.start()
  return engine
}

const requestOf = (overrides: Partial<JobRequest>) =>
  createJobBody({ model: 'custom', tier: 'fp8', steps: 2, guidance_scale: 1, ...overrides })

/** Starts a run as the server does. */
async function begin(engine: PackageEngine, overrides: Partial<JobRequest>) {
  const request = requestOf(overrides)
  const { width, height, controls } = request
  const control = controls && { pixels: new Uint8Array(3 * width * height).map((_, i) => (i * 7) % 256) }
  const [model] = engine.models
  await engine.load(model!, request)
  return engine.run(model!, request, new AbortController().signal, { control })
}

async function finish(run: AsyncIterable<PipelineEvent>): Promise<Buffer> {
  const images: Uint8Array[] = []
  for await (const event of run) if (event.type === 'image') images.push(event.data)
  return Buffer.from(images[0]!)
}

const imageOf = async (engine: PackageEngine, overrides: Partial<JobRequest>) => finish(await begin(engine, overrides))

test('a small image with a ControlNet runs after a large one without, and while it is preempted', async () => {
  const controlled = { ...SMALL, controls: CONTROLS }
  const expected = await imageOf(await startEngine({ deviceBytes: budget }), controlled)
  const engine = await startEngine({ deviceBytes: budget })
  const large = await imageOf(engine, LARGE)
  const run = (await begin(engine, LARGE))[Symbol.asyncIterator]()
  for (const type of ['encoded', 'step']) expect(await run.next()).toMatchObject({ value: { type } })
  expect(await imageOf(engine, controlled)).toEqual(expected)
  expect(await finish({ [Symbol.asyncIterator]: () => run })).toEqual(large)
})

test('an image that does not fit in memory with its ControlNet is refused with a size that fits', async () => {
  const engine = await startEngine({ deviceBytes: budget })
  await imageOf(engine, LARGE)
  const refused = await begin(engine, { ...LARGE, controls: CONTROLS }).catch((error) => error)
  expect(refused).toMatchObject({
    ...{ name: 'JobError', code: 'invalid_request' },
    message: expect.stringMatching(/^width x height was 288x288, .* custom with controlnet edges; \d+x\d+ fits$/),
  })
  const [, width, height] = /; (\d+)x(\d+) fits/.exec(refused.message)!
  await imageOf(engine, { width: Number(width), height: Number(height), controls: CONTROLS })
})

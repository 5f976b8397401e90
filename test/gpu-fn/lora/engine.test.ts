import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pino } from 'pino'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { compileLora } from '../../../gpu-fn/compile/lora/lora.ts'
import type { JobRequest } from '../../../gpu-fn/contract.ts'
import { PackageEngine } from '../../../gpu-fn/engine/package-engine.ts'
import type { LoraManifest } from '../../../gpu-fn/manifest.ts'
import { readParameters } from '../../../gpu-fn/pipeline/image.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { Verifier } from '../../../gpu-fn/weights/verification.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { createJobBody } from '../../support/gpu/client.ts'
import { LORAS } from '../../support/lora-outputs.ts'

let scratch: string
let engine: PackageEngine
beforeAll(async () => {
  scratch = await mkdtemp(path.join(tmpdir(), 'octet-lora-'))
  const packages = path.join(scratch, 'packages')
  const base = await compileTiny({ tier: 'fp8' })
  await cp(base, path.join(packages, 'custom-fp8'), { recursive: true })
  await cp(await compileTiny({ variant: 'tiny-large', tier: 'fp32' }), path.join(packages, 'other'), {
    recursive: true,
  })
  const { manifest } = await openPackage(base)
  for (const name of ['kohya', 'everything', 'kohya-encoders']) {
    const lora = path.join(LORAS, `${name}.safetensors`)
    await compileLora({ lora, base: manifest, out: path.join(packages, 'loras', name) })
  }
  // Its update exceeds the range of float32.
  const excessive = path.join(packages, 'loras', 'excessive')
  await cp(path.join(packages, 'loras', 'everything'), excessive, { recursive: true })
  const manifestFile = path.join(excessive, 'manifest.json')
  const about = JSON.parse(await readFile(manifestFile, 'utf8')) as LoraManifest
  const modules = about.modules.map((module) => ({ ...module, scale: 1e38 }))
  await writeFile(manifestFile, JSON.stringify({ ...about, name: 'excessive', modules }))
  const log = pino({ level: 'silent' })
  const verifier = new Verifier({ directory: path.join(scratch, 'cache'), log })
  engine = new PackageEngine({ packages, verifier, log, memoryBytes: 1e9, stallSeconds: 60, onStall: () => {} })
  await engine.start()
})
afterAll(async () => {
  await engine.stop()
  await rm(scratch, { recursive: true })
})

async function imagesOf(overrides: Partial<JobRequest>, signal = new AbortController().signal, tier = 'fp8') {
  const job = createJobBody({
    model: 'custom',
    tier: 'fp8',
    steps: 2,
    guidance_scale: 3,
    width: 64,
    height: 64,
    ...overrides,
  })
  const model = engine.models.find((each) => each.tier === tier)!
  const images: Uint8Array[] = []
  for await (const event of engine.run(model, job, signal)) if (event.type === 'image') images.push(event.data)
  return images.map((data) => Buffer.from(data))
}
const chooseAdapters = (...ids: string[]) => ({ loras: ids.map((id) => ({ id, scale: 1.5 })) })

test('the engine finds the adapters beside its packages', () => {
  expect([...engine.loras.keys()]).toEqual(['everything', 'excessive', 'kohya', 'kohya-encoders'])
  expect(engine.loras.get('kohya')).toEqual({ package: expect.stringMatching(/^[0-9a-f]{64}$/), rank: 6 })
})

test('every image of a job has the job’s adapters, and later jobs have their own', async () => {
  const base = await imagesOf({ count: 2 })
  const first = await imagesOf({ count: 2, ...chooseAdapters('kohya') })
  const second = await imagesOf({ count: 2, ...chooseAdapters('everything') })
  const both = await imagesOf({ count: 2, ...chooseAdapters('kohya', 'everything', 'kohya-encoders') })
  const all = [base, first, second, both].flat().map((file) => file.toString('base64'))
  expect(new Set(all).size).toBe(8)
  // The files are equal in another order of the jobs.
  expect(await imagesOf({ count: 2, ...chooseAdapters('kohya') })).toEqual(first)
  expect(await imagesOf({ count: 2 })).toEqual(base)
  expect(await readParameters(first[1]!)).toMatchObject(chooseAdapters('kohya'))
  expect(await readParameters(base[1]!)).not.toHaveProperty('loras')
})

test('alternating jobs have their own adapters', async () => {
  const job = createJobBody({
    model: 'custom',
    tier: 'fp8',
    steps: 3,
    count: 2,
    width: 64,
    height: 64,
    ...chooseAdapters('kohya'),
  })
  const alone = await imagesOf({ steps: 3, count: 2, guidance_scale: job.guidance_scale, ...chooseAdapters('kohya') })
  const base = await imagesOf({})
  const model = engine.models.find(({ tier }) => tier === 'fp8')!
  const images: Buffer[] = []
  let turns = 0
  for await (const event of engine.run(model, job, new AbortController().signal)) {
    if (event.type === 'image') images.push(Buffer.from(event.data))
    // Another job runs between two steps, and between two images.
    if (event.type === 'step' && event.step === 2 && ++turns) expect(await imagesOf({})).toEqual(base)
  }
  expect(turns).toBe(2)
  expect(images).toEqual(alone)
})

test('a strength of 0 equals the base model', async () => {
  const [base] = await imagesOf({ prompt_metadata: false })
  const [none] = await imagesOf({ prompt_metadata: false, loras: [{ id: 'kohya', scale: 0 }] })
  const readPixels = (file: Buffer) => file.subarray(file.indexOf('IDAT'))
  expect(readPixels(none!)).toEqual(readPixels(base!))
})

test('a canceled job and a refused one leave the base weights unchanged', async () => {
  const base = await imagesOf({})
  const abort = new AbortController()
  const run = async () => {
    const job = createJobBody({
      model: 'custom',
      tier: 'fp8',
      steps: 50,
      width: 64,
      height: 64,
      ...chooseAdapters('kohya'),
    })
    for await (const event of engine.run(engine.models.find(({ tier }) => tier === 'fp8')!, job, abort.signal))
      if (event.type === 'step') abort.abort(new Error('enough'))
  }
  await expect(run()).rejects.toThrow('enough')
  expect(await imagesOf({})).toEqual(base)
  await expect(imagesOf(chooseAdapters('unknown'))).rejects.toMatchObject({
    code: 'invalid_request',
    message:
      'lora "unknown" has no package on this server, but the catalog lists it; the operator must install the package',
  })
  expect(await imagesOf({})).toEqual(base)
})

test('an adapter that causes infinite values is refused, and later jobs use the base weights', async () => {
  const base = await imagesOf({})
  await expect(imagesOf(chooseAdapters('excessive'))).rejects.toMatchObject({
    code: 'invalid_request',
    message: expect.stringMatching(/ contains NaN or infinity with these loras; lower their scale$/),
  })
  expect(await imagesOf({})).toEqual(base)
})

test('an adapter of another model is refused, with the reason', async () => {
  await expect(imagesOf({ tier: 'fp32', ...chooseAdapters('kohya') }, undefined, 'fp32')).rejects.toMatchObject({
    code: 'invalid_request',
    message: expect.stringMatching(
      /^lora kohya updates transformer joint_blocks\.0\.\S+ of \d+ x 128; custom in tier fp32 has a weight of \d+ x 96/,
    ),
  })
})

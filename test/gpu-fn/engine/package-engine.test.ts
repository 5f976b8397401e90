import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import path from 'node:path'
import sharp from 'sharp'
import { expect, onTestFinished, test, vi } from 'vitest'
import type { JobRequest } from '../../../gpu-fn/contract.ts'
import { footprintOf, sumDenoiserBytes } from '../../../gpu-fn/engine/package/graphs.ts'
import type { PipelineEvent } from '../../../gpu-fn/pipeline/events.ts'
import { findPackages, openPackage } from '../../../gpu-fn/weights/packages.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { findMinimumBudget } from '../../support/checkpoints/minimum-budget.ts'
import { collect, typesOf } from '../../support/engine/collect.ts'
import { useEngines } from '../../support/engine/engines.ts'
import { createJobBody } from '../../support/gpu/client.ts'

const CRASHING = new URL('../../support/engine/crashing-worker.ts', import.meta.url)
const HANGING = new URL('../../support/engine/hanging-worker.ts', import.meta.url)

const engines = useEngines()
const startEngine = engines.start

const createRequest = (overrides: Partial<JobRequest> = {}) =>
  createJobBody({ model: 'custom', steps: 2, ...overrides })

test('lists the packages of its directory with their image sizes', async () => {
  const { engine } = await startEngine()
  expect(engine.models.map(({ model, tier }) => `${model}:${tier}`)).toEqual(['custom:fp32', 'custom:fp8'])
  for (const { package: digest, side } of engine.models) {
    expect(digest).toMatch(/^[0-9a-f]{64}$/)
    expect(side.multipleOf).toBe(16)
    expect(side.max % side.multipleOf).toBe(0)
  }
})

test('loads a package with a warning, and logs the warning in one line', async () => {
  const program = new URL('../../support/engine/noting-worker.ts', import.meta.url)
  const { engine, logs } = await startEngine({ program })
  const { seconds } = await engine.load(engine.models[0]!)
  expect(seconds).toBeGreaterThan(0)
  expect(logs.filter(({ msg }) => msg === 'runs with 16-bit products')).toHaveLength(1)
})

test('splits the samples of guidance between two sessions of the denoiser, and counts the memory of both', async () => {
  const one = await startEngine()
  const two = await startEngine({ devices: 2 })
  const model = two.engine.models.find(({ tier }) => tier === 'fp8')!
  const alone = await one.engine.load(model)
  const loaded = await two.engine.load(model)
  expect([alone.devices, loaded.devices]).toEqual([1, 2])
  const { manifest } = (await findPackages(engines.packages)).find(({ digest }) => digest === model.package)!
  expect(loaded.bytes! - alone.bytes!).toBe(sumDenoiserBytes({ manifest }))
  const job = createRequest({ guidance_scale: 3, steps: 4 })
  const pixelsOf = async ({ engine }: typeof two, parallel: boolean) => {
    let file: Uint8Array | undefined
    for await (const event of engine.run(model, job, new AbortController().signal, { parallel }))
      if (event.type === 'image') file = event.data
    return sharp(file).raw().toBuffer()
  }
  const expected = await pixelsOf(one, false)
  expect(await pixelsOf(two, false)).toEqual(expected)
  // One device runs both samples in a batch, which rounds differently.
  const divided = await pixelsOf(two, true)
  expect(divided.every((value, i) => Math.abs(value - expected[i]!) <= 1)).toBe(true)
  expect(await pixelsOf(two, true)).toEqual(divided)
})

test('runs a request on its thread and returns the image', async () => {
  const { engine } = await startEngine()
  const events = await collect(engine, createRequest({ count: 2 }))
  expect(typesOf(events)).toEqual([
    'encoded',
    'step',
    'step',
    'decoded',
    'image',
    'step',
    'step',
    'decoded',
    'image',
    'finished',
  ])
  const images = events.filter((event) => event.type === 'image')
  expect(images.map(({ seed }) => seed)).toEqual([7, 8])
  for (const { data } of images) expect(Buffer.from(data.subarray(0, 8)).toString('latin1')).toBe('\x89PNG\r\n\x1a\n')
  expect(images[0]!.data).not.toEqual(images[1]!.data)
})

test('an aborted run ends between two steps, and the next one works', async () => {
  const { engine } = await startEngine()
  const abort = new AbortController()
  let steps = 0
  const run = collect(engine, createRequest({ steps: 100 }), abort.signal, () => {
    steps += 1
    abort.abort(new Error('enough'))
  })
  await expect(run).rejects.toThrow('enough')
  expect(steps).toBeLessThan(100)
  await expect(collect(engine, createRequest(), abort.signal)).rejects.toThrow('enough')
  expect(typesOf(await collect(engine, createRequest())).at(-1)).toBe('finished')
})

test('runs that alternate step by step produce the same bytes as alone, with no additional steps', async () => {
  const { engine } = await startEngine()
  const model = engine.models.find(({ tier }) => tier === 'fp8')!
  const requests = [createRequest({ steps: 3, guidance_scale: 4 }), createRequest({ steps: 2, seed: 9, width: 32 })]
  const alone = await Promise.all(requests.map((each) => collect(engine, each)))
  const runs = requests.map((each) => ({
    events: [] as PipelineEvent[],
    iterator: engine.run(model, each, new AbortController().signal)[Symbol.asyncIterator](),
  }))
  for (let left = runs; left.length > 0; ) {
    const results: boolean[] = []
    for (const { iterator, events } of left) {
      const { value, done } = await iterator.next()
      if (!done) events.push(value)
      results.push(done === true)
    }
    left = left.filter((_, i) => !results[i])
  }
  const imagesOf = (events: PipelineEvent[]) => events.flatMap((event) => (event.type === 'image' ? [event.data] : []))
  expect(runs.map(({ events }) => imagesOf(events))).toEqual(alone.map(imagesOf))
  expect(runs.map(({ events }) => typesOf(events))).toEqual(alone.map(typesOf))
})

test('a package stays open during an unfinished run, and another that does not fit beside it waits', async () => {
  const { engine } = await startEngine({ memoryBytes: 1 })
  const [first, second] = engine.models
  const run = engine
    .run(first!, createRequest({ tier: first!.tier }), new AbortController().signal)
    [Symbol.asyncIterator]()
  await run.next()
  expect(await engine.load(second!)).toMatchObject({ occupied: true, closed: [] })
  expect((await engine.load(first!)).seconds).toBe(0)
  await run.return!(undefined)
  expect(await engine.load(second!)).toMatchObject({ closed: [`custom:${first!.tier}`] })
})

const ENCODER = /^(clip|t5)/

test('a repeated prompt of a tenant is not encoded again, and results in the same image', async () => {
  const own = path.join(engines.scratch, 'repeated')
  const directory = path.join(own, 'custom-fp8')
  await cp(await compileTiny({ tier: 'fp8' }), directory, { recursive: true })
  const deviceBytes = findMinimumBudget(await openPackage(directory))
  const { engine } = await startEngine({ packages: own, deviceBytes, promptCacheBytes: 1e8 })
  // With the minimum memory budget, the encoders are opened for each prompt.
  const { networks } = await engine.load(engine.models[0]!)
  expect(Object.keys(networks!).filter((name) => ENCODER.test(name))).toEqual([])
  const job = createRequest({ tier: 'fp8', schedule: { tenant: 'a', weight: 1, interactive: true } })
  const first = await collect(engine, job)
  for (const name of await readdir(directory)) if (ENCODER.test(name)) await rm(path.join(directory, name))
  const again = await collect(engine, job)
  expect(again.find(({ type }) => type === 'image')).toEqual(first.find(({ type }) => type === 'image'))
})

test('packages stay loaded within the budget, and the least recently used one is evicted', async () => {
  const { engine } = await startEngine()
  const [first, second] = engine.models
  expect((await engine.load(first!)).seconds).toBeGreaterThan(0)
  expect((await engine.load(second!)).seconds).toBeGreaterThan(0)
  expect(await engine.load(first!)).toMatchObject({ device: cpus()[0]!.model, seconds: 0 })

  const { engine: small } = await startEngine({ memoryBytes: 1 })
  for (const model of [first!, second!, first!]) expect((await small.load(model)).seconds).toBeGreaterThan(0)
  expect((await small.load(first!)).seconds).toBe(0)
})

test('plans within the device memory budget, and logs the plan', async () => {
  const { engine, logs } = await startEngine({ deviceBytes: 2e9 })
  const [model] = engine.models
  expect((await engine.load(model!)).networks).toMatchObject({ transformer: expect.any(Number) })
  expect(logs.find(({ msg }) => msg === 'memory plan')).toMatchObject({ budget: '2.00 GB', decode: 'whole' })
})

test('a size over the memory budget is an invalid request, rejected before the model is loaded, with a suggested size', async () => {
  const { engine, logs } = await startEngine({ deviceBytes: 3e8 })
  const model = engine.models.find(({ tier }) => tier === 'fp8')!
  const refused = await engine.load(model, { width: 4096, height: 2048 }).catch((error) => error)
  expect(refused).toMatchObject({
    ...{ name: 'JobError', code: 'invalid_request' },
    message: expect.stringMatching(/^width x height was 4096x2048, which takes more memory .* custom; \d+x\d+ fits$/),
  })
  // An error with a cause would count as a service fault.
  expect(refused.cause).toBeUndefined()
  expect(logs.filter(({ msg }) => msg === 'memory plan')).toEqual([])
  const [, width, height] = /; (\d+)x(\d+) fits/.exec(refused.message)!
  expect(Number(width) / Number(height)).toBeCloseTo(2, 0)
  await engine.load(model, { width: Number(width), height: Number(height) })
})

test('a model that exceeds the memory budget at every size is not available', async () => {
  const { engine } = await startEngine({ deviceBytes: 1e6 })
  for (const size of [undefined, { width: 64, height: 64 }])
    await expect(engine.load(engine.models[0]!, size)).rejects.toMatchObject({
      ...{ name: 'JobError', code: 'model_not_available' },
    })
})

test('warms up every supported size, by default its own', async () => {
  const { engine } = await startEngine()
  const [model] = engine.models
  expect((await engine.warm(model!)).sizes).toEqual([{ width: 256, height: 256 }])
  const wanted = [
    { width: 64, height: 96 },
    { width: 60, height: 64 },
    { width: 9600, height: 64 },
  ]
  expect(await engine.warm(model!, wanted)).toEqual({ sizes: [wanted[0]] })
  expect(await engine.load(model!)).toMatchObject({ seconds: 0, networks: {} })
})

test('counts the memory of the image that runs while a model loads', async () => {
  const directory = await mkdtemp(path.join(tmpdir(), 'octet-small-'))
  onTestFinished(() => rm(directory, { recursive: true }))
  await cp(path.join(engines.packages, 'custom-fp8'), directory, { recursive: true })
  const file = path.join(directory, 'manifest.json')
  const manifest = JSON.parse(await readFile(file, 'utf8'))
  Object.assign(manifest.defaults, { width: 64, height: 64 })
  await writeFile(file, JSON.stringify(manifest))
  const options = { packages: directory, deviceBytes: 1e9 }
  const [{ engine }, other] = [await startEngine(options), await startEngine(options)]
  const model = engine.models[0]!
  const size = { width: 256, height: 256 }
  const { bytes, parts } = await engine.load(model, undefined, { sizes: [size] })
  expect(parts!.map(({ part }) => part)).toContain('first image')
  expect(bytes).toBeGreaterThan((await other.engine.load(model)).bytes!)
  expect((await other.engine.load(model, size)).bytes).toBe(bytes)
})

test('an engine on the CPU does not wait for the list of GPUs', async () => {
  const tool = path.join(engines.scratch, 'nvidia-smi')
  await writeFile(tool, '#!/bin/sh\nexec sleep 100\n', { mode: 0o755 })
  onTestFinished(() => rm(tool))
  vi.stubEnv('PATH', `${engines.scratch}:${process.env.PATH}`)
  onTestFinished(() => void vi.unstubAllEnvs())
  const { engine } = await startEngine()
  const { parts } = await engine.load(engine.models[0]!)
  expect(parts!.map(({ part }) => part)).not.toContain('GPUs')
})

test('the budget counts the memory of packages, not the size of their files', async () => {
  const [fp32, fp8] = await findPackages(engines.packages)
  const taken = footprintOf(fp32!).bytes + footprintOf(fp8!).bytes
  for (const [memoryBytes, kept] of [
    [taken, true],
    [taken - 1, false],
  ] as const) {
    const { engine, logs } = await startEngine({ memoryBytes })
    const closed = [(await engine.load(engine.models[0]!)).closed, (await engine.load(engine.models[1]!)).closed]
    expect(closed).toEqual([[], kept ? [] : ['custom:fp32']])
    const lines = logs.filter(({ msg }) => msg === 'models closed to make room for another')
    expect(lines).toMatchObject(kept ? [] : [{ models: ['custom:fp32'], budget: memoryBytes }])
    expect((await engine.load(engine.models[0]!)).seconds === 0).toBe(kept)
  }
})

test('the death of a thread fails its job, and a new thread runs the next one', async () => {
  const { engine, logs } = await startEngine({ program: CRASHING })
  await expect(collect(engine, createRequest({ prompt: 'crash' }))).rejects.toMatchObject({
    name: 'JobError',
    code: 'internal',
    message: expect.not.stringContaining('crashed'),
  })
  expect(logs.find(({ msg }) => msg === 'the engine thread failed')?.err?.message).toBe('the thread crashed')
  expect(typesOf(await collect(engine, createRequest())).at(-1)).toBe('finished')
})

test('a run left over from a dead thread fails, and does not delay the run of its batch on the next thread', async () => {
  const { engine } = await startEngine({ program: CRASHING, sharing: 2 })
  const model = engine.models.find(({ tier }) => tier === 'fp8')!
  const batch = () => ({ number: 1, size: 2 })
  const begin = async () => {
    const run = engine.run(model, createRequest(), new AbortController().signal, { batch })[Symbol.asyncIterator]()
    expect(await run.next()).toMatchObject({ value: { type: 'encoded' } })
    return run
  }
  const outlived = await begin()
  await expect(collect(engine, createRequest({ prompt: 'crash' }))).rejects.toThrow()
  const next = await begin()
  const [failed, step] = await Promise.allSettled([outlived.next(), next.next()])
  expect(failed).toMatchObject({ status: 'rejected', reason: { code: 'internal' } })
  expect(step).toMatchObject({ status: 'fulfilled', value: { value: { type: 'step' } } })
  await next.return?.(undefined)
})

test('a run that hangs after a step is reported once, with the duration of the longest step so far', async () => {
  const release = path.join(engines.scratch, 'release')
  vi.stubEnv('HANG_UNTIL', release)
  onTestFinished(() => void vi.unstubAllEnvs())
  const { engine, stalls } = await startEngine({ program: HANGING, stallSeconds: 0.3 })
  await engine.load(engine.models[0]!)
  expect(typesOf(await collect(engine, createRequest({ tier: 'fp32' })))).toContain('finished')
  const hung = collect(engine, createRequest({ tier: 'fp32', prompt: 'hang' }))
  await expect.poll(() => stalls.length, { timeout: 60_000 }).toBe(1)
  expect(stalls[0]).toMatchObject({ activity: 'run', longestStepSeconds: expect.any(Number) })
  expect(stalls[0]!.silentSeconds).toBeGreaterThanOrEqual(stalls[0]!.limitSeconds)
  await writeFile(release, '')
  expect(typesOf(await hung).at(-1)).toBe('finished')
  expect(stalls).toHaveLength(1)
})

test('does not start without a package, or with two of the same name', async () => {
  const directory = await mkdtemp(path.join(tmpdir(), 'octet-none-'))
  onTestFinished(() => rm(directory, { recursive: true }))
  await expect(startEngine({ packages: directory })).rejects.toThrow(`no package in ${directory}`)
  for (const name of ['one', 'two']) {
    await cp(path.join(engines.packages, 'custom-fp8'), path.join(directory, name), { recursive: true })
  }
  await expect(startEngine({ packages: directory })).rejects.toThrow('more than one package of custom:fp8')
})

test('does not start if its thread cannot load', async () => {
  const program = new URL('../../support/engine/no-such-worker.ts', import.meta.url)
  await expect(startEngine({ program })).rejects.toThrow('no-such-worker')
})

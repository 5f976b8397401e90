import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { pino } from 'pino'
import { describe, expect, test } from 'vitest'
import type { Engine } from '../../../gpu-fn/engine/engine.ts'
import { createJobFault, JobError } from '../../../gpu-fn/engine/job-error.ts'
import { outcomeOf } from '../../../gpu-fn/server/job.ts'
import { Jobs, type JobsOptions, type Lifecycle } from '../../../gpu-fn/server/jobs.ts'
import { createPacedEngine, pacedModel } from '../../support/engine/paced-engine.ts'
import { createJobBody } from '../../support/gpu/client.ts'

setFlagsFromString('--expose-gc')
const collectGarbage: () => void = runInNewContext('gc')

/** Polls with a long timeout, for events that are immediate on an idle machine. */
const pollEventually = <T>(read: () => T) => expect.poll(read, { timeout: 30_000 })

/** The registry over an engine; `run` runs a job to completion, `broken` counts how often it was given up. */
function start(engine: Engine, options: Partial<JobsOptions> = {}) {
  const broken: string[] = []
  const faults: { msg: string; job: string; err: { message: string } }[] = []
  const log = pino({ level: 'error' }, { write: (line) => void faults.push(JSON.parse(line)) })
  const limits = { queue: 2, retainSeconds: 3_600, retainBytes: 1 << 28, unreadSeconds: 10 }
  const onBroken = () => broken.push('broken')
  const jobs = new Jobs({ engine, lifecycle: { status: 'ready' }, log, onBroken, ...limits, ...options })
  const run = async (id: string, overrides: Parameters<typeof createJobBody>[0] = {}) => {
    const job = jobs.submit(id, createJobBody(overrides))
    const detach = jobs.attach(job)
    await jobs.waitUntilIdle()
    detach()
    return job
  }
  return { jobs, run, broken, faults }
}

test('evicted jobs free their memory at once, long before they expire', async () => {
  const { run } = start(createPacedEngine(), { retainBytes: 100_000 })
  const images: WeakRef<Uint8Array>[] = []
  for (const id of ['a', 'b', 'c', 'd']) {
    const { entries } = await run(id, { prompt: 'bytes 90000', steps: 1 })
    images.push(new WeakRef(entries.find(({ data }) => data)!.data!))
  }
  await pollEventually(() => {
    collectGarbage()
    return images.map((image) => image.deref() !== undefined)
  }).toEqual([false, false, false, true])
})

test('consecutive job failures trigger the engine test, and onBroken is called once if it fails', async () => {
  let isGpuLost = false
  const working = createPacedEngine()
  const engine: Engine = {
    ...working,
    warm: (...given) =>
      isGpuLost ? Promise.reject(createJobFault('internal', new Error('lost'))) : working.warm(...given),
  }
  const { run, broken, faults } = start(engine)
  const prompts = ['throw up', 'throw out of memory', 'throw up']
  for (let round = 0; round < 4; round++)
    for (const [i, prompt] of prompts.entries()) await run(`${round}-${i}`, { prompt, seed: i })
  expect(broken).toEqual([])
  isGpuLost = true
  await run('a', { prompt: 'throw up' })
  await run('b', { prompt: 'throw up' })
  await run('works')
  await run('c', { prompt: 'throw up' })
  await run('d', { prompt: 'throw up' })
  expect(broken).toEqual([])
  for (const id of ['e', 'f', 'g', 'h']) await run(id, { prompt: 'throw up' })
  expect(broken).toEqual(['broken'])
  expect(faults.at(-1)).toMatchObject({ msg: 'job failed' })
})

test('a model is warmed up between jobs, and not after the process stops accepting them', async () => {
  const log: string[] = []
  const paced = createPacedEngine(0)
  const engine: Engine = {
    ...paced,
    warm: async (_, sizes = []) => {
      log.push('warm')
      return { sizes: [...sizes] }
    },
  }
  const lifecycle: Lifecycle = { status: 'ready' }
  const { jobs, run } = start(engine, { lifecycle })
  const sizes = [{ width: 64, height: 64 }]
  const job = run('a', { steps: 1 }).then(() => log.push('job'))
  const warmed = jobs.warm(pacedModel, sizes)
  await pollEventually(() => paced.runs.length).toBe(1)
  expect(log).toEqual([])
  paced.allow(1)
  await job
  expect(await warmed).toEqual(sizes)
  expect(log).toEqual(['job', 'warm'])
  lifecycle.status = 'draining'
  expect(await jobs.warm(pacedModel, sizes)).toBe(null)
  expect(log).toEqual(['job', 'warm'])
})

test('a model that fails to load does not end the process if another model works', async () => {
  const working = createPacedEngine()
  const other = { ...pacedModel, model: 'other', package: 'e'.repeat(64) }
  const engine: Engine = {
    ...working,
    models: [other, pacedModel],
    load: (model) =>
      model === other
        ? Promise.reject(createJobFault('model_not_available', new Error('corrupt')))
        : working.load(model),
  }
  const { run, broken } = start(engine)
  for (const id of ['a', 'b', 'c', 'd', 'e', 'f']) await run(id, { model: 'other' })
  expect(broken).toEqual([])
  expect(outcomeOf(await run('g'))).toMatchObject({ type: 'succeeded' })
})

test('repeated requests over the memory budget do not count as faults', async () => {
  const tight: Engine = {
    ...createPacedEngine(),
    load: (_, size) =>
      size && size.width > 64
        ? Promise.reject(new JobError('invalid_request', 'width x height was 128x128; 64x64 fits'))
        : Promise.resolve({ device: 'paced', seconds: 0 }),
    warm: () => Promise.reject(new Error('the engine was tested')),
  }
  const { run, broken, faults } = start(tight)
  for (const id of ['a', 'b', 'c', 'd']) {
    const end = outcomeOf(await run(id, { width: 128, height: 128 }))
    expect(end).toMatchObject({ type: 'failed', code: 'invalid_request', message: expect.stringContaining('64x64') })
  }
  expect(outcomeOf(await run('e'))).toMatchObject({ type: 'succeeded' })
  expect({ broken, faults }).toEqual({ broken: [], faults: [] })
})

test('prompts count toward the limit on retained bytes', async () => {
  const { run } = start(createPacedEngine(), { retainBytes: 200_000 })
  const kept: WeakRef<object>[] = []
  for (let i = 0; i < 8; i++)
    kept.push(new WeakRef(await run(`${i}`, { model: 'unknown', prompt: 'x'.repeat(10_000), seed: i })))
  await pollEventually(() => {
    collectGarbage()
    return kept.filter((job) => job.deref() !== undefined).length
  }).toBeLessThanOrEqual(5)
})

test('the loss of the GPU, after which no model opens, ends the process', async () => {
  const lost = {
    ...createPacedEngine(),
    load: () => Promise.reject(createJobFault('model_not_available', new Error('no GPU'))),
  }
  const { run, broken } = start(lost)
  for (const id of ['a', 'b']) expect(outcomeOf(await run(id))).toMatchObject({ code: 'model_not_available' })
  expect(outcomeOf(await run('refused', { model: 'unknown' }))).toMatchObject({ code: 'model_not_available' })
  expect(outcomeOf(await run('too-large', { width: 4096 }))).toMatchObject({ code: 'invalid_request' })
  expect(broken).toEqual([])
  await run('c')
  expect(broken).toEqual(['broken'])
})

test('refused and canceled jobs do not count as faults', async () => {
  const engine = createPacedEngine(0)
  const { jobs, run, broken, faults } = start(engine)
  for (const id of ['a', 'b', 'c']) await run(id, { model: 'unknown' })
  for (const id of ['d', 'e', 'f']) {
    const ended = run(id)
    jobs.cancel(id, null)
    expect(outcomeOf(await ended)).toMatchObject({ type: 'canceled' })
  }
  expect({ broken, faults }).toEqual({ broken: [], faults: [] })
})

test('a fault in a canceled job is logged and counted, and the caller gets `canceled`', async () => {
  const working = createPacedEngine()
  let started = 0
  const engine: Engine = {
    ...working,
    async *run(_model, _request, signal) {
      started += 1
      if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve))
      throw new Error('the GPU is gone')
    },
    warm: () => Promise.reject(new Error('the GPU is gone')),
  }
  const { jobs, run, broken, faults } = start(engine)
  for (const [i, id] of ['a', 'b', 'c'].entries()) {
    const ended = run(id)
    await pollEventually(() => started).toBe(i + 1)
    jobs.cancel(id, null)
    expect(outcomeOf(await ended)).toMatchObject({ type: 'canceled' })
  }
  const logged = faults.filter(({ msg }) => msg === 'job failed').map(({ job, err }) => [job, err.message])
  expect(logged).toEqual(['a', 'b', 'c'].map((id) => [id, 'the GPU is gone']))
  expect(broken).toEqual(['broken'])
})

test('a job canceled during the load of its model ends without a run', async () => {
  const working = createPacedEngine()
  const load = Promise.withResolvers<{ device: string; seconds: number }>()
  const { jobs, run } = start({ ...working, load: () => load.promise })
  const ended = run('a')
  await pollEventually(() => jobs.counts().running).toBe(1)
  jobs.cancel('a', null)
  load.resolve({ device: 'paced', seconds: 9 })
  const { entries } = await ended
  expect(entries.map(({ event }) => event)).toMatchObject([{ type: 'canceled', steps_done: 0, timings: { load: 9 } }])
  expect(working.runs).toEqual([])
})

describe('a cancellation that arrives before its job', () => {
  const listTypes = ({ entries }: { entries: { event: { type: string } }[] }) => entries.map(({ event }) => event.type)

  test('applies to that attempt and earlier ones, but not to later ones', async () => {
    const { jobs, run } = start(createPacedEngine())
    expect(() => jobs.cancel('a', 2)).toThrow('job a is not known here')
    expect(listTypes(await run('a', { attempt: 1 }))).toEqual(['canceled'])
    expect(listTypes(await run('a', { attempt: 2 }))).toEqual(['canceled'])
    expect(listTypes(await run('a', { attempt: 3 })).at(-1)).toBe('succeeded')
  })

  test('is not undone by a late cancellation of an earlier attempt, and applies even if the process is draining', async () => {
    const lifecycle: Lifecycle = { status: 'ready' }
    const { jobs, run } = start(createPacedEngine(), { lifecycle })
    for (const attempt of [3, 1]) expect(() => jobs.cancel('a', attempt)).toThrow('not known here')
    lifecycle.status = 'draining'
    expect(listTypes(await run('a', { attempt: 3 }))).toEqual(['canceled'])
  })

  test('is forgotten after too many newer ones', async () => {
    const { jobs, run } = start(createPacedEngine())
    for (let i = 0; i < 20_000; i++) expect(() => jobs.cancel(`job-${i}`, 1)).toThrow('not known here')
    expect(listTypes(await run('job-19999'))).toEqual(['canceled'])
    expect(listTypes(await run('job-0')).at(-1)).toBe('succeeded')
  })
})

describe('a job without readers', () => {
  const startUnread = (engine: Engine) => start(engine, { unreadSeconds: 0.05 })

  test('is canceled, whether queued or running, but not while any reader remains', async () => {
    const engine = createPacedEngine(0)
    const { jobs } = startUnread(engine)
    const running = jobs.submit('running', createJobBody())
    const detach = jobs.attach(running)
    const waiting = jobs.submit('waiting', createJobBody({ seed: 1 }))
    await pollEventually(() => outcomeOf(waiting)).toMatchObject({ type: 'canceled', steps_done: 0 })
    const detachOther = jobs.attach(running)
    detach()
    // A second call must not detach the other reader.
    detach()
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(outcomeOf(running)).toBeUndefined()
    detachOther()
    await pollEventually(() => outcomeOf(running)?.type).toBe('canceled')
    await jobs.waitUntilIdle()
  })

  test('is run again for the same or a later attempt, even before the canceled run has ended', async () => {
    const engine = createPacedEngine(0)
    const { jobs } = startUnread(engine)
    const first = jobs.submit('a', createJobBody({ attempt: 2 }))
    await pollEventually(() => first.cancellation.signal.aborted).toBe(true)
    const again = jobs.submit('a', createJobBody({ attempt: 2 }))
    const detach = jobs.attach(again)
    expect(again).not.toBe(first)
    expect(jobs.submit('a', createJobBody({ attempt: 3 }))).toBe(again)
    engine.allow(4)
    await jobs.waitUntilIdle()
    expect([outcomeOf(first)?.type, outcomeOf(again)?.type]).toEqual(['canceled', 'succeeded'])
    detach()
    expect(jobs.submit('a', createJobBody({ attempt: 4 }))).toBe(again)
  })

  test('is not run again for an attempt that was canceled by request, or for an earlier one', async () => {
    const { jobs } = startUnread(createPacedEngine(0))
    const job = jobs.submit('a', createJobBody({ attempt: 2 }))
    await pollEventually(() => outcomeOf(job)?.type).toBe('canceled')
    expect(jobs.submit('a', createJobBody({ attempt: 1 }))).toBe(job)
    jobs.cancel('a', 2)
    expect(jobs.submit('a', createJobBody({ attempt: 2 }))).toBe(job)
    const later = jobs.submit('a', createJobBody({ attempt: 3 }))
    expect(later).not.toBe(job)
    jobs.cancel('a', 3)
    await jobs.waitUntilIdle()
  })
})

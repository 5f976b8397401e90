import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { pino } from 'pino'
import { expect, test } from 'vitest'
import type { Engine } from '../../gpu-fn/engine.ts'
import { jobFault, outcome } from '../../gpu-fn/job.ts'
import { createJobs, type JobsOptions } from '../../gpu-fn/jobs.ts'
import { jobBody } from '../support/gpu-client.ts'
import { createPacedEngine } from '../support/paced-engine.ts'

setFlagsFromString('--expose-gc')
const collectGarbage: () => void = runInNewContext('gc')

/** The registry over an engine; `run` takes a job to its end, `broken` counts how often it was given up. */
function start(engine: Engine, options: Partial<JobsOptions> = {}) {
  const broken: string[] = []
  const faults: { job: string; err: { message: string } }[] = []
  const log = pino({ level: 'error' }, { write: (line) => void faults.push(JSON.parse(line)) })
  const limits = { queue: 2, retainSeconds: 3_600, retainBytes: 1 << 28 }
  const onBroken = () => broken.push('broken')
  const jobs = createJobs({ engine, lifecycle: { status: 'ready' }, log, onBroken, ...limits, ...options })
  const run = async (id: string, overrides: Parameters<typeof jobBody>[0] = {}) => {
    const job = jobs.submit(id, jobBody(overrides))
    await jobs.idle()
    return job
  }
  return { jobs, run, broken, faults }
}

test('jobs that newer ones push out leave memory at once, long before their time is over', async () => {
  const { run } = start(createPacedEngine(), { retainBytes: 100_000 })
  const images: WeakRef<Uint8Array>[] = []
  for (const id of ['a', 'b', 'c', 'd']) {
    const { entries } = await run(id, { prompt: 'bytes 90000', steps: 1 })
    images.push(new WeakRef(entries.find(({ data }) => data)!.data!))
  }
  await expect
    .poll(() => {
      collectGarbage()
      return images.map((image) => image.deref() !== undefined)
    })
    .toEqual([false, false, false, true])
})

test('a GPU that is lost, so that no model opens any more, gives the process up', async () => {
  const lost = {
    ...createPacedEngine(),
    load: () => Promise.reject(jobFault('model_not_available', new Error('no GPU'))),
  }
  const { run, broken } = start(lost)
  for (const id of ['a', 'b']) expect(outcome(await run(id))).toMatchObject({ code: 'model_not_available' })
  expect(outcome(await run('refused', { model: 'unknown' }))).toMatchObject({ code: 'model_not_available' })
  expect(outcome(await run('too-large', { width: 4096 }))).toMatchObject({ code: 'invalid_request' })
  expect(broken).toEqual([])
  await run('c')
  expect(broken).toEqual(['broken'])
})

test('jobs that are refused or canceled are no fault', async () => {
  const engine = createPacedEngine(0)
  const { jobs, run, broken, faults } = start(engine)
  for (const id of ['a', 'b', 'c']) await run(id, { model: 'unknown' })
  for (const id of ['d', 'e', 'f']) {
    const ended = run(id)
    jobs.cancel(id, null)
    expect(outcome(await ended)).toMatchObject({ type: 'canceled' })
  }
  expect({ broken, faults }).toEqual({ broken: [], faults: [] })
})

test('a fault in a job that was canceled is logged and counted, and the caller hears that it was canceled', async () => {
  const engine: Engine = {
    ...createPacedEngine(),
    async *run(_model, _request, signal) {
      if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve))
      throw new Error('the GPU is gone')
    },
  }
  const { jobs, run, broken, faults } = start(engine)
  for (const id of ['a', 'b', 'c']) {
    const ended = run(id)
    jobs.cancel(id, null)
    expect(outcome(await ended)).toMatchObject({ type: 'canceled' })
  }
  expect(faults.map(({ job, err }) => [job, err.message])).toEqual(['a', 'b', 'c'].map((id) => [id, 'the GPU is gone']))
  expect(broken).toEqual(['broken'])
})

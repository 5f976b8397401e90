// Jobs of small images share runs of the denoiser on the real engine.
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pino } from 'pino'
import sharp from 'sharp'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import type { JobRequest } from '../../../gpu-fn/contract.ts'
import type { Engine } from '../../../gpu-fn/engine/engine.ts'
import { createJobFault } from '../../../gpu-fn/engine/job-error.ts'
import { PackageEngine } from '../../../gpu-fn/engine/package-engine.ts'
import type { StepBatch } from '../../../gpu-fn/engine/step-batches.ts'
import { type Job, outcomeOf } from '../../../gpu-fn/server/job.ts'
import { Jobs, type JobsOptions } from '../../../gpu-fn/server/jobs.ts'
import { createMetrics } from '../../../gpu-fn/server/observability/metrics.ts'
import { observeWith } from '../../../gpu-fn/server/observer.ts'
import { Verifier } from '../../../gpu-fn/weights/verification.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { createPacedEngine } from '../../support/engine/paced-engine.ts'
import { createJobBody } from '../../support/gpu/client.ts'

let scratch: string
beforeAll(async () => {
  scratch = await mkdtemp(path.join(tmpdir(), 'octet-shared-steps-'))
  await cp(await compileTiny({ tier: 'fp8' }), path.join(scratch, 'packages'), { recursive: true })
})
afterAll(() => rm(scratch, { recursive: true }))

/** A registry over a started engine. */
async function start(sharing: number, options: Partial<JobsOptions> = {}) {
  const log = pino({ level: 'silent' })
  const limits = { memoryBytes: 1e9, stallSeconds: 60, onStall: () => {}, promptCacheBytes: 0, sharing }
  const verifier = new Verifier({ directory: path.join(scratch, 'cache'), log })
  const engine = new PackageEngine({ packages: path.join(scratch, 'packages'), verifier, log, ...limits })
  onTestFinished(() => engine.stop())
  await engine.start()
  const metrics = createMetrics()
  const kept = { queue: 20, retainSeconds: 3_600, retainBytes: 1 << 28, unreadSeconds: 60, sharing, ...options }
  const observer = observeWith([metrics])
  const jobs = new Jobs({ engine, lifecycle: { status: 'ready' }, log, onBroken: () => {}, observer, ...kept })
  const submit = (id: string, overrides: Partial<JobRequest> = {}) => {
    const job = jobs.submit(id, createJobBody({ model: 'custom', prompt: id, ...overrides }))
    jobs.attach(job)
    return job
  }
  return { jobs, submit, metrics }
}

const stepsOf = ({ entries }: Job) => entries.filter(({ event }) => event.type === 'step').length

/** The largest difference between two images of one size, in levels of 0 to 255. */
async function measureLargestDifference(one: Uint8Array, other: Uint8Array): Promise<number> {
  const [a, b] = await Promise.all([one, other].map((data) => sharp(data).raw().toBuffer()))
  expect(b).toHaveLength(a!.length)
  return a!.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b![i]!)), 0)
}
const imageOf = ({ entries }: Job) => entries.find(({ event }) => event.type === 'image')?.data
/** The number of steps of jobs whose run had at least `min` jobs. */
async function readSharedSteps({ metrics }: Awaited<ReturnType<typeof start>>, min: number): Promise<number> {
  const { body } = await metrics.text()
  const read = (name: string) =>
    Number(
      body
        .split('\n')
        .find((line) => line.startsWith(`${name} `))
        ?.split(' ')[1] ?? 0,
    )
  const labels = 'model="custom",tier="fp8"'
  return read(`octet_step_jobs_count{${labels}}`) - read(`octet_step_jobs_bucket{le="${min - 1}",${labels}}`)
}

const REQUESTS: [string, Partial<JobRequest>][] = [
  ['a', { steps: 6, seed: 1 }],
  ['b', { steps: 4, seed: 2, sampler: 'dpmpp_2m', preview_steps: 2 }],
  ['c', { steps: 4, seed: 3, guidance_scale: 4 }],
  ['d', { steps: 3, seed: 4, guidance_scale: 2, sampler: 'heun' }],
  ['e', { steps: 4, seed: 5, guidance_scale: 3, guidance_interval: { start: 0, stop: 0.5 }, count: 2 }],
  ['f', { steps: 2, seed: 6, width: 32 }],
]

test('jobs of one size share steps, and their images differ only by rounding from those of jobs that run alone', async () => {
  const images: (Uint8Array | undefined)[][] = []
  const shared: number[] = []
  for (const sharing of [1, 4]) {
    const started = await start(sharing)
    const jobs = REQUESTS.map(([id, overrides]) => started.submit(id, overrides))
    await started.jobs.waitUntilIdle()
    expect(jobs.map((job) => outcomeOf(job)?.type)).toEqual(REQUESTS.map(() => 'succeeded'))
    images.push(jobs.map(imageOf))
    shared.push(await readSharedSteps(started, 2))
  }
  expect(shared[0]).toBe(0)
  expect(shared[1]).toBeGreaterThan(15)
  for (const [i, alone] of images[0]!.entries())
    expect(await measureLargestDifference(alone!, images[1]![i]!), REQUESTS[i]![0]).toBeLessThanOrEqual(1)
})

test('a job canceled during a shared step does not affect the others', async () => {
  const { jobs, submit } = await start(4)
  const [leaves, stays] = [submit('leaves', { steps: 50 }), submit('stays', { steps: 12 })]
  await expect.poll(() => stepsOf(leaves), { timeout: 60_000 }).toBeGreaterThan(2)
  jobs.cancel('leaves', 1)
  await jobs.waitUntilIdle()
  expect(outcomeOf(leaves)).toMatchObject({ type: 'canceled' })
  expect(outcomeOf(stays)).toMatchObject({ type: 'succeeded' })
  expect(stepsOf(stays)).toBe(12)
})

test('a job with step caching shares its computed steps', async () => {
  const started = await start(4)
  const jobs = [started.submit('cached', { steps: 28, cache: 'fast' }), started.submit('plain', { steps: 28 })]
  await started.jobs.waitUntilIdle()
  expect(jobs.map((job) => outcomeOf(job)?.type)).toEqual(['succeeded', 'succeeded'])
  expect(jobs.map(stepsOf)).toEqual([28, 28])
  // Both jobs have turns for the steps that the first one computes.
  expect(await readSharedSteps(started, 2)).toBeGreaterThan(28)
})

test('a job out of memory in a shared step is repeated in exclusive turns, without the batch', async () => {
  /** Jobs within a step, and the batch and concurrent jobs at each event of the repeated job. */
  const working = new Set<string>()
  const repeated: { batch: StepBatch | null; beside: string[] }[] = []
  const attempts = new Map<string, number>()
  const engine: Engine = {
    ...createPacedEngine(),
    load: async () => ({ device: 'test', seconds: 0, batched: true }),
    async *run(_, { prompt, steps }, __, { batch = () => null } = {}) {
      const attempt = (attempts.get(prompt) ?? 0) + 1
      attempts.set(prompt, attempt)
      const note = () => attempt > 1 && repeated.push({ batch: batch(), beside: [...working] })
      note()
      yield { type: 'warning', code: 'prompt_truncated', message: 'The prompt is long.' }
      note()
      yield { type: 'encoded', seconds: 0 }
      for (let step = 1; step <= steps; step++) {
        note()
        working.add(prompt)
        for (let i = 0; i < 5; i++) await new Promise(setImmediate)
        const fails = prompt === 'large' && attempt === 1 && batch() !== null
        if (!fails) for (let i = 0; i < 5; i++) await new Promise(setImmediate)
        working.delete(prompt)
        if (fails) throw createJobFault('out_of_memory', new Error('Failed to allocate memory'))
        yield { type: 'step', image: 0, step, steps }
      }
      yield { type: 'finished', timings: { encode: 0, denoise: 0, decode: 0 } }
    },
  }
  const log = pino({ level: 'silent' })
  const kept = { queue: 20, retainSeconds: 60, retainBytes: 1 << 20, unreadSeconds: 60, sharing: 2 }
  const observer = observeWith([])
  const jobs = new Jobs({ engine, lifecycle: { status: 'ready' }, log, onBroken: () => {}, observer, ...kept })
  const submitted = ['small', 'large'].map((id) => jobs.submit(id, createJobBody({ prompt: id, steps: 6 })))
  for (const job of submitted) jobs.attach(job)
  await jobs.waitUntilIdle()
  expect(submitted.map((job) => outcomeOf(job)?.type)).toEqual(['succeeded', 'succeeded'])
  expect([...attempts]).toEqual([
    ['small', 1],
    ['large', 2],
  ])
  expect(repeated.every(({ batch, beside }) => batch === null && beside.length === 0)).toBe(true)
  expect(repeated).toHaveLength(2 + 6)
})

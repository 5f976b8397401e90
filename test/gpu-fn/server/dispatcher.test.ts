// Jobs share the engine step by step.
import { setTimeout } from 'node:timers/promises'
import { pino } from 'pino'
import { describe, expect, test, vi } from 'vitest'
import type { JobEvent, JobRequest } from '../../../gpu-fn/contract.ts'
import type { Engine } from '../../../gpu-fn/engine/engine.ts'
import { type Job, outcomeOf } from '../../../gpu-fn/server/job.ts'
import { Jobs, type JobsOptions } from '../../../gpu-fn/server/jobs.ts'
import { createPacedEngine, type PacedEngine, pacedModel } from '../../support/engine/paced-engine.ts'
import { createJobBody } from '../../support/gpu/client.ts'

/** Polls with a long timeout, for events that are immediate on an idle machine. */
const pollEventually = <T>(read: () => T) => expect.poll(read, { timeout: 30_000 })

/** The registry over an engine; every submitted job has a reader. `ended` has the ids of jobs in the order of their ends. */
function start(engine: Engine, options: Partial<JobsOptions> = {}) {
  const log = pino({ level: 'silent' })
  const limits = { queue: 20, retainSeconds: 3_600, retainBytes: 1 << 28, unreadSeconds: 10 }
  const jobs = new Jobs({ engine, lifecycle: { status: 'ready' }, log, onBroken: () => {}, ...limits, ...options })
  const ended: string[] = []
  const submit = (id: string, { interactive = false, tenant = id, ...body }: SubmittedRequest = {}) => {
    const job = jobs.submit(
      id,
      createJobBody({ ...body, schedule: { tenant, weight: 1, interactive, ...body.schedule } }),
    )
    jobs.attach(job)
    job.changes.on('entry', () => {
      if (outcomeOf(job)) ended.push(id)
    })
    return job
  }
  return { jobs, submit, ended }
}
type SubmittedRequest = Partial<Omit<JobRequest, 'schedule'>> & {
  interactive?: boolean
  tenant?: string
  schedule?: Partial<NonNullable<JobRequest['schedule']>>
}

const stepsOf = ({ entries }: Job) => entries.filter(({ event }) => event.type === 'step').length
const typesOf = ({ entries }: Job) => entries.map(({ event }) => event.type)

/** Lets the engine run one step and waits for it. */
async function step(engine: PacedEngine, job: Job): Promise<void> {
  const before = stepsOf(job)
  engine.allow(1)
  await pollEventually(() => stepsOf(job)).toBe(before + 1)
}

test('an interactive job preempts another at its next step, which then continues', async () => {
  const engine = createPacedEngine(0)
  const { jobs, submit, ended } = start(engine)
  const full = submit('full', { steps: 28 })
  await step(engine, full)
  const turbo = submit('turbo', { steps: 4, interactive: true })
  expect([jobs.position(full), jobs.position(turbo)]).toEqual([0, 1])
  await step(engine, full)
  expect(stepsOf(turbo)).toBe(0)
  for (let i = 0; i < 4; i++) await step(engine, turbo)
  await pollEventually(() => ended).toEqual(['turbo'])
  expect(stepsOf(full)).toBe(2)
  engine.allow(100)
  await jobs.waitUntilIdle()
  expect(typesOf(full).filter((type) => type === 'step')).toHaveLength(28)
  const end = outcomeOf(full) as Extract<JobEvent, { type: 'succeeded' }>
  expect(end.timings.queue).toBeGreaterThan(0)
  expect(end.timings.queue).toBeLessThan(end.timings.total)
})

test('a preempted job is canceled before the running one continues', async () => {
  const engine = createPacedEngine(0)
  const { jobs, submit } = start(engine)
  const full = submit('full', { steps: 28 })
  await step(engine, full)
  const turbo = submit('turbo', { steps: 4, interactive: true })
  await step(engine, full)
  await step(engine, turbo)
  jobs.cancel('full', 1)
  engine.allow(3)
  await jobs.waitUntilIdle()
  expect(outcomeOf(full)).toMatchObject({ type: 'canceled', steps_done: 2 })
  expect(outcomeOf(turbo)).toMatchObject({ type: 'succeeded' })
})

test('a job with an unattainable deadline is refused, with the time after which it is attainable', async () => {
  const engine = createPacedEngine(0)
  const { jobs, submit } = start(engine)
  submit('first', { steps: 28 })
  const hurry = (id: string, ms: number) => () => submit(id, { steps: 8, schedule: { max_latency_ms: ms } })
  expect(hurry('second', 3_600_000)).not.toThrow()
  expect(hurry('third', 1_500)).toThrow(
    expect.objectContaining({ code: 'deadline_unmet', retryAfter: expect.any(Number) }),
  )
  expect(hurry('fourth', 10)).toThrow(expect.objectContaining({ code: 'deadline_unmet', retryAfter: undefined }))
  engine.allow(100)
  await jobs.waitUntilIdle()
})

test('a job is divided over the devices only if its deadline cannot be met on one', async () => {
  const paced = createPacedEngine()
  const divided: Record<string, boolean | undefined> = {}
  const engine: Engine = {
    ...paced,
    load: () => Promise.resolve({ device: 'paced', seconds: 0, devices: 2 }),
    async *run(model, request, signal, options) {
      divided[request.prompt] = options?.parallel
      for await (const event of paced.run(model, request, signal)) {
        if (event.type === 'step') await setTimeout(20)
        yield event
      }
    },
  }
  const { jobs, submit } = start(engine)
  const send = (prompt: string, max_latency_ms: number, guidance_scale = 4) =>
    submit(prompt, { prompt, steps: 10, guidance_scale, schedule: { max_latency_ms } })
  send('first', 3_600_000)
  await jobs.waitUntilIdle()
  // The refusal states the time on two devices, on which the steps take half as long as on one.
  let takesMs = 0
  expect(() => send('impossible', 1)).toThrow(
    expect.toSatisfy(({ message }: Error) => {
      takesMs = Number(/in (\d+) ms/.exec(message)![1])
      return takesMs > 0
    }),
  )
  const hurried = send('hurried', Math.round(1.2 * takesMs))
  await jobs.waitUntilIdle()
  expect(hurried.entries[0]!.event).toMatchObject({ type: 'started', device: '2 x paced' })
  expect(() => send('unguided', Math.round(0.5 * takesMs), 1)).toThrow(
    expect.objectContaining({ code: 'deadline_unmet' }),
  )
  send('roomy', 3_600_000)
  await jobs.waitUntilIdle()
  expect(divided).toEqual({ first: false, hurried: true, roomy: false })
})

test('a flood is refused with a Retry-After once the accepted jobs would take longer than the aging bound', async () => {
  const engine = createPacedEngine(0)
  const { jobs, submit } = start(engine, { agingSeconds: 20 })
  const refused: unknown[] = []
  for (let i = 0; i < 30; i++) {
    try {
      submit(`flood${i}`, { tenant: 'flood', steps: 10 })
    } catch (error) {
      refused.push(error)
    }
  }
  expect(refused.length).toBeGreaterThan(5)
  for (const error of refused)
    expect(error).toMatchObject({ code: 'queue_full', retryAfter: expect.any(Number), message: /take too long/ })
  engine.allow(300)
  await jobs.waitUntilIdle()
})

describe('the place of a refused job', () => {
  /** An estimated 40 s on a new engine; the jobs that a device accepts together take 48 s. */
  const LONG = { steps: 100, count: 4 }
  const QUEUE_FULL = expect.objectContaining({ code: 'queue_full' })

  test('is free again once the job is canceled', () => {
    const { jobs, submit } = start(createPacedEngine(0))
    submit('first', LONG)
    expect(() => submit('long', { ...LONG, tenant: 'a' })).toThrow(QUEUE_FULL)
    expect(() => submit('short', { steps: 4, tenant: 'a' })).toThrow(QUEUE_FULL)
    expect(() => jobs.cancel('long', 1)).toThrow(expect.objectContaining({ code: 'job_not_found' }))
    expect(() => submit('short', { steps: 4, tenant: 'a' })).not.toThrow()
  })

  test('is free again after ten seconds without a request for the job, which another GPU may have accepted', () => {
    const { submit } = start(createPacedEngine(0))
    submit('first', LONG)
    expect(() => submit('long', { ...LONG, tenant: 'a' })).toThrow(QUEUE_FULL)
    const now = performance.now()
    const clock = vi.spyOn(performance, 'now')
    clock.mockReturnValue(now + 9_000)
    expect(() => submit('short', { steps: 4, tenant: 'a' })).toThrow(QUEUE_FULL)
    clock.mockReturnValue(now + 11_000)
    expect(() => submit('short', { steps: 4, tenant: 'a' })).not.toThrow()
    clock.mockRestore()
  })

  test('is found again by a job that was refused before its canceled run had ended', async () => {
    const { jobs, submit } = start(createPacedEngine(0))
    const again = { steps: 100, count: 2, tenant: 'a' }
    submit('again', again)
    submit('other', { steps: 100, count: 2 })
    jobs.cancel('again', 1)
    expect(() => submit('again', { ...again, attempt: 2 })).toThrow(QUEUE_FULL)
    await pollEventually(() => jobs.counts().running + jobs.counts().queued).toBe(1)
    expect(() => submit('again', { ...again, attempt: 2 })).not.toThrow()
  })
})

test('while the file of an image is encoded, the next job has the device', async () => {
  const paced = createPacedEngine()
  const { promise: encoded, resolve: finishFile } = Promise.withResolvers<void>()
  const engine: Engine = {
    ...paced,
    async *run(model, request, signal) {
      for await (const event of paced.run(model, request, signal)) {
        if (event.type === 'image' && request.prompt === 'slow file') {
          yield { type: 'decoded', image: event.image }
          await encoded
        }
        yield event
      }
    },
  }
  const { jobs, submit, ended } = start(engine)
  const first = submit('first', { prompt: 'slow file' })
  submit('second')
  await pollEventually(() => ended).toEqual(['second'])
  expect(typesOf(first).at(-1)).toBe('step')
  finishFile()
  await jobs.waitUntilIdle()
  expect(ended).toEqual(['second', 'first'])
})

test('a model that does not fit beside an unfinished job is loaded after that job, before younger ones', async () => {
  const paced = createPacedEngine(0)
  const other = { ...pacedModel, model: 'other', package: 'e'.repeat(64) }
  let unfinished = 0
  const engine: Engine = {
    ...paced,
    models: [pacedModel, other],
    load: (model) => Promise.resolve({ device: 'paced', seconds: 0, occupied: model === other && unfinished > 0 }),
    async *run(model, request, signal) {
      unfinished += 1
      yield* paced.run(model, request, signal)
      unfinished -= 1
    },
  }
  const { jobs, submit, ended } = start(engine)
  const first = submit('first', { steps: 2 })
  await step(paced, first)
  submit('other', { model: 'other', interactive: true })
  submit('younger', { interactive: true })
  paced.allow(100)
  await jobs.waitUntilIdle()
  expect(ended).toEqual(['first', 'other', 'younger'])
})

test('a job whose networks take turns on the device is not preempted', async () => {
  const paced = createPacedEngine(0)
  const engine: Engine = { ...paced, load: () => Promise.resolve({ device: 'paced', seconds: 0, inTurns: true }) }
  const { jobs, submit, ended } = start(engine)
  const full = submit('full', { steps: 5 })
  await step(paced, full)
  submit('turbo', { interactive: true })
  paced.allow(100)
  await jobs.waitUntilIdle()
  expect(ended).toEqual(['full', 'turbo'])
})

// What drives a job when no caller does: its Workflow, and below that the job object's watchdog. Nothing is lost whatever dies when.
import { abortAllDurableObjects, introspectWorkflowInstance, runDurableObjectAlarm } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { AccountDO } from '../../edge/account.ts'
import { filesOf, generate, generatedOf, jobIn, ledgerOf, newCaller, send } from './client.ts'
import { accepted, fakeGpu, fed, image, line, refuses, started, stream, timings, works } from './fake-gpu.ts'
import { created, jobOf, over, PRICE, stopsHalfWay } from './jobs.ts'

afterEach(() => vi.restoreAllMocks())

const settledOnce = { reserved: 0, captured: PRICE }

describe('the Workflow of a job', () => {
  test('sleeps while no GPU accepts, and asks again for the same attempt', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await created(caller)
    await using instance = await introspectWorkflowInstance(env.GENERATE, spec.id)
    const calls = fakeGpu(refuses(503, 'loading'), refuses(429, 'queue_full', { 'retry-after': '1' }), works)
    await jobOf(spec).start()
    expect(await instance.waitForStepResult({ name: 'turn 1' })).toBeGreaterThan(0)
    expect(await instance.waitForStepResult({ name: 'turn 2' })).toBeGreaterThanOrEqual(1000)
    expect(await instance.waitForStepResult({ name: 'turn 3' })).toBeNull()
    await instance.waitForStatus('complete')
    expect(await over(spec)).toMatchObject({ state: 'succeeded', attempt: 1 })
    expect(calls.map(({ request }) => request.attempt)).toEqual([1, 1, 1])
    expect(await ledgerOf(caller)).toEqual(settledOnce)
  })

  test('makes three attempts at most, waiting between them, then gives up at no price', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await created(caller)
    await using instance = await introspectWorkflowInstance(env.GENERATE, spec.id)
    await instance.modify((each) => each.disableSleeps())
    const calls = fakeGpu((seen) => stream([accepted(seen), started(seen)]))
    await jobOf(spec).start()
    await instance.waitForStatus('complete')
    expect(await jobOf(spec).view()).toMatchObject({ state: 'failed', error: { code: 'generation_failed' } })
    expect(calls.map(({ request }) => request.attempt)).toEqual([1, 2, 3])
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })

  test('settles a job whose account was away when it ended', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await created(caller)
    await using instance = await introspectWorkflowInstance(env.GENERATE, spec.id)
    await instance.modify((each) => each.disableSleeps())
    fakeGpu(works)
    const settle = vi.spyOn(AccountDO.prototype, 'settle').mockImplementation(() => {
      throw new Error('the account restarts')
    })
    await jobOf(spec).start()
    expect(await instance.waitForStepResult({ name: 'turn 1' })).toBeGreaterThan(0)
    settle.mockRestore()
    await instance.waitForStatus('complete')
    expect(await jobOf(spec).view()).toMatchObject({ state: 'succeeded', settled: true, announced: true })
    expect(await ledgerOf(caller)).toEqual(settledOnce)
  })

  test('is one for a job, however often it is started', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await created(caller)
    const calls = fakeGpu(works)
    await Promise.all([jobOf(spec).start(), jobOf(spec).start(), jobOf(spec).run()])
    await over(spec)
    expect(calls).toHaveLength(1)
    expect(await filesOf(caller)).toHaveLength(2)
  })
})

describe('what dies', () => {
  test('the job object in the middle of an attempt: the Workflow makes the next one', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await created(caller)
    const calls = fakeGpu(stopsHalfWay, works)
    await jobOf(spec).start()
    await vi.waitFor(async () => expect((await jobOf(spec).view())?.images).toHaveLength(1))
    await abortAllDurableObjects()
    await runDurableObjectAlarm(jobOf(spec))
    expect(await over(spec, 20_000)).toMatchObject({ state: 'succeeded' })
    expect(calls.map(({ request }) => request.attempt)).toEqual([1, 2])
    expect(await filesOf(caller)).toHaveLength(2)
    expect(await ledgerOf(caller)).toEqual(settledOnce)
  })

  test('the Workflow: the watchdog makes the attempt itself', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await created(caller)
    await using instance = await introspectWorkflowInstance(env.GENERATE, spec.id)
    await instance.modify((each) => each.mockStepError({ name: 'turn 1' }, new Error('the Workflow broke')))
    const calls = fakeGpu(works)
    await jobOf(spec).start()
    await runDurableObjectAlarm(jobOf(spec))
    expect(await over(spec)).toMatchObject({ state: 'succeeded', attempt: 1 })
    expect(calls).toHaveLength(1)
    expect(await ledgerOf(caller)).toEqual(settledOnce)
  })

  test('the Workflow: the watchdog does not wait for its attempt, which may take longer than an alarm', async ({
    expect,
  }) => {
    const spec = await created(await newCaller())
    await using instance = await introspectWorkflowInstance(env.GENERATE, spec.id)
    await instance.modify((each) => each.mockStepError({ name: 'turn 1' }, new Error('the Workflow broke')))
    const { behaviour, send: feed } = fed()
    const calls = fakeGpu(behaviour)
    await jobOf(spec).start()
    await runDurableObjectAlarm(jobOf(spec))
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    feed(accepted(calls[0]!), started(calls[0]!))
    await vi.waitFor(async () => expect((await jobOf(spec).view())?.state).toBe('running'))
    const images = await Promise.all([image(calls[0]!, 0), image(calls[0]!, 1)])
    feed(...images.flat(), line({ type: 'succeeded', images: 2, timings }))
    expect(await over(spec)).toMatchObject({ state: 'succeeded', attempt: 1 })
  })

  test('the job object under a caller who waits: the caller has the image all the same', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(stopsHalfWay, works)
    const waiting = generate(caller, { prompt: 'a cat' })
    await vi.waitFor(async () => expect(await filesOf(caller)).toHaveLength(1))
    await abortAllDurableObjects()
    const { octet } = await generatedOf(await waiting)
    expect(calls.map(({ request }) => request.attempt)).toEqual([1, 2])
    await over({ id: octet.job })
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: octet.price_microdollars })
  })
})

test('a job that a caller waits for leaves its second attempt to the Workflow', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu((seen) => stream([accepted(seen), started(seen)]), works)
  const { octet } = await generatedOf(await generate(caller, { prompt: 'a cat' }))
  expect(octet.attempts).toBe(2)
  expect(await (await env.GENERATE.get(octet.job)).status()).toMatchObject({
    status: expect.stringMatching(/^(running|complete)$/),
  })
})

test('a job that succeeds at once needs no Workflow', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu(works)
  const { octet } = await generatedOf(await generate(caller, { prompt: 'a cat' }))
  await expect(env.GENERATE.get(octet.job).then((instance) => instance.status())).rejects.toThrow('not_found')
  const stored = await jobIn(await send('GET', `/v1/jobs/${octet.job}`, caller))
  expect(stored).toMatchObject({ state: 'succeeded', attempt: 1 })
})

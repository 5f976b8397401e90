// Job state machine: alarms handle GPU rejections, lost attempts and object resets.
import { abortAllDurableObjects, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { afterEach, describe, test, vi } from 'vitest'
import { AccountDO } from '../../../edge/accounts/account.ts'
import { filesOf, generate, generatedOf, ledgerOf, newCaller } from '../support/client.ts'
import { createAccepted, createStarted, fakeGpu, refuses, stream, works } from '../support/fake-gpu.ts'
import {
  createRunningJob,
  jobOf,
  PRICE,
  reservationOf,
  reserveJob,
  reset,
  stopsHalfWay,
  waitForEnd,
} from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

const paidOnce = { reserved: 0, captured: PRICE }

test('while no GPU accepts, the same attempt is retried at the time stored in the job', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(refuses(503, 'loading'), refuses(429, 'queue_full', { 'retry-after': '1' }), works)
  const spec = await createRunningJob(caller)
  await vi.waitFor(() => expect(calls).toHaveLength(2))
  const waiting = await vi.waitFor(async () => {
    const job = (await jobOf(spec).view())!
    expect(job.waiting).toMatchObject({ tries: 2 })
    return job
  })
  const alarm = await runInDurableObject(jobOf(spec), (_, { storage }) => storage.getAlarm())
  expect(alarm).toBe(waiting.nextAt)
  expect(waiting.nextAt - waiting.waiting!.since).toBeGreaterThanOrEqual(1000)
  expect(await waitForEnd(spec)).toMatchObject({ state: 'succeeded', attempt: 1 })
  expect(calls.map(({ request }) => request.attempt)).toEqual([1, 1, 1])
  expect(await ledgerOf(caller)).toEqual(paidOnce)
})

test('a job fails at no charge after three attempts', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu((seen) => stream([createAccepted(seen), createStarted(seen)]))
  const spec = await createRunningJob(caller)
  expect(await waitForEnd(spec)).toMatchObject({ state: 'failed', error: { code: 'generation_failed' } })
  expect(calls.map(({ request }) => request.attempt)).toEqual([1, 2, 3])
  expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
})

test('a failed settlement is retried by the alarm', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu(works)
  const settle = vi.spyOn(AccountDO.prototype, 'settle').mockImplementation(() => {
    throw new Error('the account is broken')
  })
  const spec = await createRunningJob(caller)
  await vi.waitFor(() => expect(settle).toHaveBeenCalled())
  settle.mockRestore()
  expect(await waitForEnd(spec, 20_000)).toMatchObject({ state: 'succeeded', settled: true, announced: true })
  expect(await ledgerOf(caller)).toEqual(paidOnce)
})

describe('an alarm', () => {
  test('does not start a second attempt while one is in progress', async ({ expect }) => {
    const calls = fakeGpu(stopsHalfWay, works)
    const spec = await createRunningJob(await newCaller())
    await vi.waitFor(async () => expect((await jobOf(spec).view())?.images).toHaveLength(1))
    for (let k = 0; k < 3; k++) await runDurableObjectAlarm(jobOf(spec))
    expect(calls).toHaveLength(1)
    expect(await waitForEnd(spec)).toMatchObject({ state: 'succeeded', attempt: 2 })
  })

  test('does not act before it is due', async ({ expect }) => {
    const calls = fakeGpu(refuses(429, 'queue_full', { 'retry-after': '1' }))
    const spec = await createRunningJob(await newCaller())
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    await vi.waitFor(async () => expect((await jobOf(spec).view())?.waiting).toMatchObject({ tries: 1 }))
    await runDurableObjectAlarm(jobOf(spec))
    expect(calls).toHaveLength(1)
    await jobOf(spec).cancel()
  })
})

test('a waiting caller gets its image despite a reset of the job', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(stopsHalfWay, works)
  const waiting = generate(caller, { prompt: 'a cat' })
  await vi.waitFor(async () => expect(await filesOf(caller)).toHaveLength(1))
  await reset(jobOf({ id: calls[0]!.job }))
  const { octet } = await generatedOf(await waiting)
  expect(calls.map(({ request }) => request.attempt)).toEqual([1, 2])
  await waitForEnd({ id: octet.job })
  expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: octet.price_microdollars })
})

test('a job whose creation was interrupted runs after it is created again', async ({ expect }) => {
  const caller = await newCaller()
  const spec = await reserveJob(caller)
  fakeGpu(works)
  const create = jobOf(spec).create(reservationOf(spec))
  await abortAllDurableObjects()
  await create.catch(() => {})
  await jobOf(spec).create(reservationOf(spec))
  expect(await waitForEnd(spec)).toMatchObject({ state: 'succeeded' })
  expect(await ledgerOf(caller)).toEqual(paidOnce)
})

test('attempts interrupted by resets do not count as faults', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(stopsHalfWay, stopsHalfWay, stopsHalfWay, stopsHalfWay, stopsHalfWay, works)
  const waiting = generate(caller, { prompt: 'a cat', n: 2 })
  for (let resets = 1; resets <= 5; resets++) {
    await vi.waitFor(() => expect(calls).toHaveLength(resets))
    const spec = { id: calls[0]!.job }
    await vi.waitFor(async () => expect((await jobOf(spec).view())?.images).toHaveLength(1))
    await reset(jobOf(spec))
  }
  const { octet } = await generatedOf(await waiting)
  expect(octet.attempts).toBe(6)
  expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: octet.price_microdollars })
})

// The money path: whatever runs twice, dies or is taken over, a job ends once, stores once and is charged once.
import { abortAllDurableObjects, evictDurableObject, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { AccountDO } from '../../edge/account.ts'
import { filesOf, ledgerOf, newCaller } from './client.ts'
import { accepted, fakeGpu, image, line, started, stream, timings, works } from './fake-gpu.ts'
import { created, jobOf, over, PRICE, reserved, stopsHalfWay } from './jobs.ts'

afterEach(() => vi.restoreAllMocks())

describe('an attempt that runs twice', () => {
  test('at once is one: one call, one image each, one capture', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await created(caller)
    const calls = fakeGpu(works)
    const both = await Promise.all([jobOf(spec).attempt(1), jobOf(spec).attempt(1), jobOf(spec).run()])
    expect(both.map(({ state }) => state)).toEqual(['succeeded', 'succeeded', 'succeeded'])
    expect(calls).toHaveLength(1)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: PRICE })
  })

  test('after the end changes nothing', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await created(caller)
    const calls = fakeGpu(works)
    await jobOf(spec).run()
    const first = await over(spec)
    const log = await jobOf(spec).events()
    for (const n of [1, 2]) expect(await jobOf(spec).attempt(n)).toEqual(first)
    expect(await jobOf(spec).run()).toEqual(first)
    expect(await jobOf(spec).create({ ...spec, price: 1 })).toEqual(first)
    expect(await jobOf(spec).events()).toEqual(log)
    expect(calls).toHaveLength(1)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: PRICE })
  })

  test('is fenced: a later attempt takes over and the earlier one is not heard any more', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await created(caller)
    const calls = fakeGpu(stopsHalfWay, works)
    const first = jobOf(spec).attempt(1)
    await vi.waitFor(async () => expect((await jobOf(spec).view())?.images).toHaveLength(1))
    const second = await jobOf(spec).attempt(2)
    expect(second).toMatchObject({ state: 'succeeded', attempt: 2 })
    expect((await first).attempt).toBe(2)
    expect(calls.map(({ request }) => request.attempt)).toEqual([1, 2])
    expect(await filesOf(caller)).toHaveLength(2)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: PRICE })
  })
})

describe('images are written once', () => {
  test('an image that an earlier attempt stored stands, even where the next one differs in its bytes', async ({
    expect,
  }) => {
    const caller = await newCaller()
    const spec = await created(caller)
    const key = `results/30d/${caller.account}/${spec.id}/0.png`
    await env.RESULTS.put(key, 'of the earlier attempt', { customMetadata: { sha256: 'e'.repeat(64) } })
    fakeGpu(works)
    const { images } = await jobOf(spec).run()
    expect(images[0]).toMatchObject({ key, bytes: 22, sha256: 'e'.repeat(64) })
    expect(await (await env.RESULTS.get(key))!.text()).toBe('of the earlier attempt')
  })
})

describe('a job whose object dies half-way', () => {
  test('is carried on by the watchdog, and charged once', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await created(caller)
    const calls = fakeGpu(stopsHalfWay, works)
    const broken = jobOf(spec)
      .run()
      .catch((error: Error) => error)
    await vi.waitFor(async () => expect((await jobOf(spec).view())?.images).toHaveLength(1))
    await abortAllDurableObjects()
    expect(await broken).toBeInstanceOf(Error)
    expect(await jobOf(spec).view()).toMatchObject({ state: 'running', attempt: 1, settled: false })

    expect(await runDurableObjectAlarm(jobOf(spec))).toBe(true)
    expect(await over(spec)).toMatchObject({ state: 'succeeded', attempt: 2, settled: true })
    expect(calls.map(({ request }) => request.attempt)).toEqual([1, 2])
    expect(await filesOf(caller)).toHaveLength(2)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: PRICE })
    await vi.waitFor(async () => expect(await runDurableObjectAlarm(jobOf(spec))).toBe(false))
  })

  test('or is created and never run (the worker died): the watchdog runs it', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await created(caller)
    fakeGpu(works)
    await evictDurableObject(jobOf(spec))
    await runDurableObjectAlarm(jobOf(spec))
    expect(await over(spec)).toMatchObject({ state: 'succeeded', attempt: 1 })
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: PRICE })
  })

  test('between its end and the settlement: the image is the caller’s, and the watchdog settles', async ({
    expect,
  }) => {
    const caller = await newCaller()
    const spec = await created(caller)
    fakeGpu(works)
    const settle = vi.spyOn(AccountDO.prototype, 'settle').mockImplementation(() => {
      throw new Error('the account restarts')
    })
    expect(await jobOf(spec).run()).toMatchObject({ state: 'succeeded', settled: false })
    settle.mockRestore()
    expect(await ledgerOf(caller)).toEqual({ reserved: PRICE, captured: 0 })
    await runDurableObjectAlarm(jobOf(spec))
    expect(await jobOf(spec).view()).toMatchObject({ state: 'succeeded', settled: true })
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: PRICE })
  })
})

describe('the ledger', () => {
  test('settles an entry once: the first settlement stands', async ({ expect }) => {
    const caller = await newCaller()
    const account = env.ACCOUNT.getByName(caller.account)
    const { id } = await reserved(caller)
    expect(await ledgerOf(caller)).toEqual({ reserved: PRICE, captured: 0 })
    expect(await account.settle(id, { outcome: 'captured' })).toMatchObject({ state: 'captured', amount: PRICE })
    expect(await account.settle(id, { outcome: 'captured' })).toMatchObject({ state: 'captured' })
    expect(await account.settle(id, { outcome: 'released' })).toMatchObject({ state: 'captured' })
    expect(await account.settle('job_unknown', { outcome: 'captured' })).toBeNull()
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: PRICE })
  })

  test('releases a reservation that no job stands behind, and leaves those of living jobs', async ({ expect }) => {
    const caller = await newCaller()
    const account = env.ACCOUNT.getByName(caller.account)
    const [orphan, living] = [await reserved(caller), await created(caller)]
    await runInDurableObject(account, (_, { storage }) => {
      storage.sql.exec('UPDATE ledger SET reserved = reserved - 3600000')
    })
    expect(await runDurableObjectAlarm(account)).toBe(true)
    expect((await account.entry(orphan.id))?.state).toBe('released')
    expect((await account.entry(living.id))?.state).toBe('reserved')
    expect(await runDurableObjectAlarm(account)).toBe(true)
  })
})

test('a job logs every event of its stream but heartbeats, in order', async ({ expect }) => {
  const spec = await created(await newCaller())
  fakeGpu(async (seen) => {
    const images = [...(await image(seen, 1)), ...(await image(seen, 0))]
    return stream([
      accepted(seen),
      line({ type: 'heartbeat' }),
      started(seen),
      ...images,
      line({ type: 'succeeded', images: 2, timings }),
    ])
  })
  const job = await jobOf(spec).run()
  const log = await jobOf(spec).events()
  expect(log.map(({ event }) => event.type)).toEqual([
    'queued',
    'starting',
    'accepted',
    'started',
    'stored',
    'stored',
    'succeeded',
  ])
  expect((await jobOf(spec).events(log[3]!.seq)).map(({ event }) => event.type)).toEqual([
    'stored',
    'stored',
    'succeeded',
  ])
  expect(job).toMatchObject({ ran: { device: 'fake', package: 'a'.repeat(64) }, progress: null })
})

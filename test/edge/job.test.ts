// The money path: whatever runs twice, dies or is taken over, a job ends once, stores once and is charged once.
import { abortAllDurableObjects, evictDurableObject, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { AccountDO } from '../../edge/account.ts'
import { type JobSpec, newJobId } from '../../edge/job-record.ts'
import { checkKey } from '../../edge/keys.ts'
import { type Caller, filesOf, ledgerOf, newCaller } from './client.ts'
import { accepted, fakeGpu, image, line, type Seen, started, stream, timings, works } from './fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const PRICE = 1234
const jobOf = ({ id }: JobSpec) => env.JOB.getByName(id)

async function reserved(caller: Caller): Promise<JobSpec> {
  const credential = (await checkKey(env.KEY_PEPPER, caller.key))!
  const decision = {
    route: 'turbo',
    tier: 'fp8',
    model: 'tiny',
    endpoint: 'default',
    steps: 4,
    guidanceScale: 1,
    width: 64,
    height: 64,
  } as const
  const work = {
    model: 'tiny',
    tier: 'fp8',
    prompt: 'a cat',
    negative_prompt: '',
    width: 64,
    height: 64,
    steps: 4,
  } as const
  const output = {
    guidance_scale: 1,
    seed: 5,
    count: 2,
    output_format: 'png',
    output_quality: 90,
    text_convention: 'diffusers',
  } as const
  const spec = { id: newJobId(), account: caller.account, keyId: caller.keyId, created: Date.now(), price: PRICE }
  const admission = await env.ACCOUNT.getByName(caller.account).admit({
    credential,
    job: spec.id,
    price: PRICE,
    idempotency: null,
  })
  if (admission.kind !== 'admitted') throw new Error(admission.kind)
  return { ...spec, request: { ...work, ...output }, decision: { ...decision, reason: 'A test.' } }
}

async function created(caller: Caller): Promise<JobSpec> {
  const spec = await reserved(caller)
  await jobOf(spec).create(spec)
  return spec
}

const settled = (spec: JobSpec) =>
  vi.waitFor(async () => {
    if (!(await jobOf(spec).view())?.settled) throw new Error('the job is not settled yet')
  })

/** Accepts, makes the first of two images, then says no more. */
const stopsHalfWay = async (seen: Seen) => stream([accepted(seen), started(seen), ...(await image(seen, 0))], 'silence')

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
    const first = await jobOf(spec).run()
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
    const key = `results/${caller.account}/${spec.id}/0.png`
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
    await settled(spec)
    expect(await jobOf(spec).view()).toMatchObject({ state: 'succeeded', attempt: 2, settled: true })
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
    await settled(spec)
    expect(await jobOf(spec).view()).toMatchObject({ state: 'succeeded', attempt: 1 })
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: PRICE })
  })

  test('is not waited for by its alarm, which has an end that the job need not keep', async ({ expect }) => {
    const spec = await created(await newCaller())
    const { promise: open, resolve } = Promise.withResolvers<void>()
    fakeGpu(async (seen) => {
      await open
      return works(seen)
    })
    await runDurableObjectAlarm(jobOf(spec))
    expect(await jobOf(spec).view()).toMatchObject({ state: 'starting', settled: false })
    resolve()
    await settled(spec)
    expect(await jobOf(spec).view()).toMatchObject({ state: 'succeeded', attempt: 1 })
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
    await settled(spec)
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
    expect(await account.settle(id, 'captured')).toMatchObject({ state: 'captured', amount: PRICE })
    expect(await account.settle(id, 'captured')).toMatchObject({ state: 'captured' })
    expect(await account.settle(id, 'released')).toMatchObject({ state: 'captured' })
    expect(await account.settle('job_unknown', 'captured')).toBeNull()
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
  expect(log.map(({ event }) => event.type)).toEqual(['accepted', 'started', 'stored', 'stored', 'succeeded'])
  expect((await jobOf(spec).events(log[1]!.seq)).map(({ event }) => event.type)).toEqual([
    'stored',
    'stored',
    'succeeded',
  ])
  expect(job).toMatchObject({ ran: { device: 'fake', package: 'a'.repeat(64) }, progress: null })
})

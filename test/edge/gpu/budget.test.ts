// The daily ceiling for GPU time: boundary, concurrent jobs, failed runs, resets, and the change of day.
import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import { configOf, findProblems } from '../../../edge/config.ts'
import { type Caller, generate, ledgerOf, newCaller, problemOf, readJob, send } from '../support/client.ts'
import { createEnvWith } from '../support/config.ts'
import {
  type Behavior,
  createAccepted,
  createFeed,
  createImage,
  createStarted,
  encodeLine,
  fakeGpu,
  timings,
  works,
} from '../support/fake-gpu.ts'
import { jobOf, reset, waitForEnd } from '../support/jobs.ts'
import { call, operator } from '../support/operator.ts'

/** GPU_RUN_SECONDS is 2. */
const RUN_MS = 2_000
const DAY_MS = 86_400_000
/** A midnight in the future, at least a day from now. */
const MIDNIGHT = (Math.ceil(Date.now() / DAY_MS) + 1) * DAY_MS

const variables = env as unknown as Record<string, unknown>
const before = variables.OCTET_GPU_BUDGET
const setCeiling = (daily_seconds: number) => {
  variables.OCTET_GPU_BUDGET = { daily_seconds }
}
const openBudget = () => env.GPU_BUDGET.getByName('all')

const freezeClock = (time: number) => vi.spyOn(Date, 'now').mockReturnValue(time)

const clock = Date.now
/** Moves the clock of the worker to a time, from which it keeps running. */
function setClock(time: number): void {
  const difference = time - clock()
  vi.spyOn(Date, 'now').mockImplementation(() => clock() + difference)
}

beforeEach(async () => {
  await runInDurableObject(openBudget(), (_, { storage }) => {
    storage.kv.delete('spent')
    storage.sql.exec('DELETE FROM runs')
  })
})
afterEach(() => {
  variables.OCTET_GPU_BUDGET = before
  vi.restoreAllMocks()
})

test('a clock that moves backward over midnight loses nothing of the day that has begun', async ({ expect }) => {
  setCeiling(100)
  freezeClock(MIDNIGHT + 1_000)
  expect(await openBudget().spend(60_000)).toBe(true)
  freezeClock(MIDNIGHT - 1_000)
  expect(await openBudget().spend(60_000)).toBe(false)
  expect(await openBudget().spend(10_000)).toBe(true)
  freezeClock(MIDNIGHT + 2_000)
  expect((await report()).spent_seconds).toBe(70)
})

const submit = async (caller: Caller) => readJob(await send('POST', '/v1/jobs', caller, { prompt: 'a cat' }))
const report = async () => (await openBudget().report())!

/** A GPU whose jobs start, and end one by one when the test calls `finishNext`. */
function fakeHeldGpu() {
  const held: (() => Promise<void>)[] = []
  const behavior: Behavior = (seen) => {
    const { behavior: respond, send: feed } = createFeed()
    feed(createAccepted(seen), createStarted(seen))
    const beating = setInterval(() => feed(encodeLine({ type: 'heartbeat' })), 50)
    held.push(async () => {
      clearInterval(beating)
      feed(...(await createImage(seen, 0)), encodeLine({ type: 'succeeded', images: 1, timings }))
    })
    return respond(seen)
  }
  return { behavior, finishNext: () => held.shift()!() }
}

describe('the object', () => {
  test('reserves exactly up to the ceiling', async ({ expect }) => {
    setCeiling(6)
    expect(await openBudget().spend(2 * RUN_MS)).toBe(true)
    expect(await openBudget().reserve('one')).toBe('reserved')
    expect(await report()).toEqual({ daily_seconds: 6, spent_seconds: 4, reserved_seconds: 2 })
    expect(await openBudget().spend(1)).toBe(false)
    await openBudget().settle('one', null)
    expect(await openBudget().spend(1)).toBe(true)
    expect([await openBudget().isExhausted(), await openBudget().reserve('two')]).toEqual([true, 'exhausted'])
  })

  test('is busy while only other reservations prevent a new one', async ({ expect }) => {
    setCeiling(3)
    const rooms = await Promise.all([openBudget().reserve('one'), openBudget().reserve('two')])
    expect(rooms.toSorted()).toEqual(['busy', 'reserved'])
    expect(await openBudget().isExhausted()).toBe(false)
    await openBudget().settle(rooms[0] === 'reserved' ? 'one' : 'two', null)
    expect(await openBudget().reserve('three')).toBe('reserved')
  })

  test('counts the time since acceptance once, however often it is settled', async ({ expect }) => {
    setCeiling(60)
    freezeClock(MIDNIGHT + 3600_000)
    await openBudget().reserve('one')
    for (const _ of [1, 2]) await openBudget().settle('one', Date.now() - 1_500)
    expect((await report()).spent_seconds).toBe(1.5)
  })

  test('counts an attempt whose job was reset from its reservation', async ({ expect }) => {
    setCeiling(60)
    freezeClock(MIDNIGHT + 3600_000)
    await openBudget().reserve('one')
    freezeClock(MIDNIGHT + 3600_000 + 7_000)
    expect(await openBudget().reserve('one')).toBe('reserved')
    expect(await report()).toMatchObject({ spent_seconds: 7, reserved_seconds: 2 })
  })

  test('counts a reservation that is never settled in full', async ({ expect }) => {
    setCeiling(5)
    freezeClock(MIDNIGHT + 3600_000)
    await Promise.all([openBudget().reserve('lost one'), openBudget().reserve('lost two')])
    freezeClock(MIDNIGHT + 3600_000 + 60_000)
    expect(await openBudget().reserve('next')).toBe('exhausted')
    expect(await report()).toMatchObject({ spent_seconds: 4, reserved_seconds: 0 })
  })

  test('starts each day (UTC) at zero; a run over midnight counts from midnight', async ({ expect }) => {
    setCeiling(5)
    freezeClock(MIDNIGHT - 1_500)
    await openBudget().spend(2_500)
    await openBudget().reserve('over midnight')
    expect(await openBudget().reserve('late')).toBe('busy')
    await openBudget().settle('late', null)
    freezeClock(MIDNIGHT)
    expect(await report()).toMatchObject({ spent_seconds: 0, reserved_seconds: 2 })
    freezeClock(MIDNIGHT + 500)
    await openBudget().settle('over midnight', MIDNIGHT - 1_000)
    expect(await report()).toMatchObject({ spent_seconds: 0.5, reserved_seconds: 0 })
  })

  test('keeps spent and reserved time across resets', async ({ expect }) => {
    setCeiling(6)
    await openBudget().spend(1_000)
    await openBudget().reserve('one')
    await reset(openBudget())
    expect(await report()).toEqual({ daily_seconds: 6, spent_seconds: 1, reserved_seconds: 2 })
  })
})

describe('requests', () => {
  test('are refused for the rest of the day, across accounts, without a charge; then they succeed', async ({
    expect,
  }) => {
    const gpu = fakeGpu(works)
    setClock(MIDNIGHT - 100_000)
    setCeiling(3)
    const [one, other] = [await newCaller(), await newCaller()]
    expect((await generate(one, { prompt: 'a cat' })).status).toBe(200)
    await openBudget().spend(1_000)
    for (const caller of [one, other]) {
      const captured = await ledgerOf(caller)
      for (const response of [
        await generate(caller, { prompt: 'a dog' }),
        await send('POST', '/v1/jobs', caller, { prompt: 'a dog' }),
      ]) {
        const retryAfter = Number(response.headers.get('retry-after'))
        expect([response.status, response.headers.get('x-should-retry')]).toEqual([503, 'false'])
        expect(retryAfter).toBeLessThanOrEqual(100)
        expect(retryAfter).toBeGreaterThan(50)
        expect((await problemOf(response)).error.code).toBe('gpu_budget_exhausted')
      }
      expect(await ledgerOf(caller)).toEqual(captured)
    }
    expect(gpu).toHaveLength(1)
    setClock(MIDNIGHT + 1_000)
    expect((await generate(other, { prompt: 'a dog' })).status).toBe(200)
  })

  test('for an earlier job or a reused image succeed regardless', async ({ expect }) => {
    fakeGpu(works)
    setCeiling(3)
    const caller = await newCaller()
    const ask = (fields: object, headers = {}) => generate(caller, { prompt: 'a cat', seed: 1, ...fields }, headers)
    expect((await ask({}, { 'idempotency-key': 'k' })).status).toBe(200)
    await openBudget().spend(1_000)
    expect((await ask({}, { 'idempotency-key': 'k' })).status).toBe(200)
    expect((await ask({ reuse: true })).status).toBe(200)
    expect((await ask({ seed: 2 })).status).toBe(503)
  })

  test('two at once, with time for one: the second starts after the first has returned its unused time', async ({
    expect,
  }) => {
    const { behavior, finishNext } = fakeHeldGpu()
    const gpu = fakeGpu(behavior)
    setCeiling(3.9)
    const [first, second] = await Promise.all([submit(await newCaller()), submit(await newCaller())])
    await vi.waitFor(() => expect(gpu).toHaveLength(1))
    expect((await report()).reserved_seconds).toBe(2)
    await finishNext()
    await vi.waitFor(() => expect(gpu).toHaveLength(2))
    await finishNext()
    expect([(await waitForEnd(first)).state, (await waitForEnd(second)).state]).toEqual(['succeeded', 'succeeded'])
    await vi.waitFor(async () => expect((await report()).reserved_seconds).toBe(0))
  })

  test('two at once, with time for one: the second fails free of charge when the first has used it', async ({
    expect,
  }) => {
    const { behavior, finishNext } = fakeHeldGpu()
    const gpu = fakeGpu(behavior)
    setCeiling(2)
    const callers = [await newCaller(), await newCaller()]
    const jobs = await Promise.all(callers.map(submit))
    await vi.waitFor(() => expect(gpu).toHaveLength(1))
    await finishNext()
    const ended = await Promise.all(jobs.map((job) => waitForEnd(job)))
    expect(ended.map(({ error }) => error?.code ?? null).toSorted()).toEqual(['gpu_budget_exhausted', null])
    const refused = ended.findIndex(({ state }) => state === 'failed')
    expect(await ledgerOf(callers[refused]!)).toEqual({ reserved: 0, captured: 0 })
    expect(gpu).toHaveLength(1)
  })

  test('that fail also spend their GPU time, and the waiting caller is refused', async ({ expect }) => {
    const fails: Behavior = async (seen) => {
      const { behavior, send: feed, close } = createFeed()
      feed(createAccepted(seen), createStarted(seen))
      setTimeout(() => {
        feed(encodeLine({ type: 'failed', code: 'internal', message: 'a fault' }))
        close()
      }, 300)
      return behavior(seen)
    }
    const gpu = fakeGpu(fails)
    setCeiling(2.5)
    const caller = await newCaller()
    const response = await generate(caller, { prompt: 'a cat' })
    expect([response.status, (await problemOf(response)).error.code]).toEqual([503, 'gpu_budget_exhausted'])
    expect(Number(response.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(gpu).toHaveLength(2)
    expect((await report()).spent_seconds).toBeGreaterThan(0.5)
    await vi.waitFor(async () => expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 }))
  })

  test('that no GPU accepts spend nothing', async ({ expect }) => {
    fakeGpu(() => new Response(null, { status: 503 }))
    setCeiling(3)
    const job = await waitForEnd(await submit(await newCaller()))
    expect(job.error?.code).toBe('gpu_unavailable')
    await vi.waitFor(async () => expect(await report()).toMatchObject({ spent_seconds: 0, reserved_seconds: 0 }))
  })

  test('are unaffected without a ceiling', async ({ expect }) => {
    fakeGpu(works)
    expect((await generate(await newCaller(), { prompt: 'a cat' })).status).toBe(200)
    expect(await openBudget().report()).toBeNull()
    expect(await runInDurableObject(openBudget(), (_, { storage }) => storage.kv.get('spent'))).toBeUndefined()
  })
})

test('a canceled job returns its reservation', async ({ expect }) => {
  const { behavior } = fakeHeldGpu()
  const gpu = fakeGpu(behavior)
  setCeiling(3)
  const job = await submit(await newCaller())
  await vi.waitFor(() => expect(gpu).toHaveLength(1))
  await jobOf(job).cancel()
  await vi.waitFor(async () => expect((await report()).reserved_seconds).toBe(0), 15_000)
})

test('prewarming spends the same budget, and is skipped if the ceiling does not cover it', async ({ expect }) => {
  const gpu = vi.spyOn(globalThis, 'fetch').mockImplementation(async () => new Response())
  const prewarm = variables.OCTET_PREWARM
  variables.OCTET_PREWARM = { idle_seconds: 10, start_seconds: 20, budget_seconds: 1000 }
  const endpoint = env.ENDPOINT.getByName(`prewarmed ${crypto.randomUUID()}`)
  try {
    setCeiling(29)
    expect(await endpoint.prewarm('default', 'visit')).toMatchObject({ state: 'cold' })
    expect([gpu.mock.calls.length, (await report()).spent_seconds]).toEqual([0, 0])
    setCeiling(30)
    expect(await endpoint.prewarm('default', 'visit')).not.toMatchObject({ state: 'cold' })
    await vi.waitFor(() => expect(gpu).toHaveBeenCalledOnce())
    expect((await report()).spent_seconds).toBe(30)
    expect((await endpoint.report()).spent_today_seconds).toBe(30)
  } finally {
    variables.OCTET_PREWARM = prewarm
  }
})

test('the operator’s status contains the day’s GPU time', async ({ expect }) => {
  setCeiling(60)
  await openBudget().spend(12_000)
  const { body } = await call('GET', '/v1/operator/status', operator)
  expect(body.gpu_budget).toEqual({ daily_seconds: 60, spent_seconds: 12, reserved_seconds: 0 })
})

describe('the configuration', () => {
  const budgetOf = (OCTET_GPU_BUDGET: unknown, others: object = {}) =>
    configOf(createEnvWith({ OCTET_GPU_BUDGET, ...others })).gpuBudget
  const problemsOf = (OCTET_GPU_BUDGET: unknown, others: object = {}) =>
    findProblems({ ...variables, OCTET_GPU_BUDGET, ...others })

  test('is in seconds or dollars; the lower ceiling applies', ({ expect }) => {
    const priced = { OCTET_PREWARM: { dollars_per_hour: 4 } }
    expect(budgetOf(undefined)).toBeNull()
    expect(budgetOf({})).toBeNull()
    expect(budgetOf({ daily_seconds: 100 })).toEqual({ dailyMs: 100_000, runMs: RUN_MS })
    expect(budgetOf({ daily_dollars: 2 }, priced)).toEqual({ dailyMs: 1_800_000, runMs: RUN_MS })
    expect(budgetOf({ daily_dollars: 2, daily_seconds: 60 }, priced)?.dailyMs).toBe(60_000)
  })

  test('is refused without a price, and below the time of one attempt', ({ expect }) => {
    expect(problemsOf({ daily_dollars: 2 })).toEqual([
      'OCTET_GPU_BUDGET.daily_dollars is 2: it requires dollars_per_hour above 0 in OCTET_PREWARM.',
    ])
    expect(problemsOf({ daily_seconds: 1 })).toEqual([
      'OCTET_GPU_BUDGET.daily_seconds is 1: it allows 1 s of GPU time, but each attempt reserves 2 s (GPU_RUN_SECONDS).',
    ])
    expect(problemsOf({ daily_seconds: -1 })).toHaveLength(1)
    expect(problemsOf({ daily_seconds: 5 }, { GPU_RUN_SECONDS: 'soon' })).toHaveLength(1)
  })
})

import { runDurableObjectAlarm } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { describe, test, vi } from 'vitest'
import { DEFAULT_PRICES } from '../../../edge/config/prices.ts'
import { clearObservations, forecast, NO_OBSERVATIONS } from '../../../edge/routing/forecast.ts'
import type { Observation } from '../../../edge/routing/observation.ts'
import { generate, generatedOf, newCaller } from '../support/client.ts'
import { createConfigWith } from '../support/config.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { call, operator } from '../support/operator.ts'

const MINUTE = 60_000
const NOW = Date.UTC(2026, 10, 22, 12)
const createObservation = (finished: number, more: Partial<Observation> = {}): Observation => ({
  ...{ endpoint: 'default', model: 'tiny', tier: 'fp8', created: finished - 2000, finished },
  ...{ megapixel_steps: 4, waited: 0.5, load: 0, run: 1.5, ...more },
})

describe('a forecast', () => {
  test('reports the absence of observations', ({ expect }) => {
    expect(forecast([], 4, NOW)).toEqual(NO_OBSERVATIONS)
    expect(NO_OBSERVATIONS).toEqual({ observations: 0, cold: null, seconds: null })
  })

  test('scales the run with the work, but neither the wait nor the load', ({ expect }) => {
    const warm = [createObservation(NOW - 9000), createObservation(NOW - 6000), createObservation(NOW - 3000)]
    expect(forecast(warm, 4, NOW)).toMatchObject({ seconds: { p50: 2, p95: 2 }, cold: { probability: 0 } })
    expect(forecast(warm, 8, NOW).seconds).toEqual({ p50: 3.5, p95: 3.5 })
    const cold = [createObservation(NOW - 3000, { load: 10 })]
    expect(forecast(cold, 8, NOW).seconds).toEqual({ p50: 13.5, p95: 13.5 })
  })

  test('uses runs of comparable work, if available', ({ expect }) => {
    const tiny = Array.from({ length: 50 }, (_, k) =>
      createObservation(NOW - k * 1000, { megapixel_steps: 0.0003, run: 0.5 }),
    )
    const usual = [9000, 6000, 3000].map((before) => createObservation(NOW - before))
    expect(forecast([...tiny, ...usual], 4, NOW).seconds).toEqual({ p50: 2, p95: 2 })
    expect(forecast(tiny, 0.0003, NOW).seconds).toEqual({ p50: 1, p95: 1 })
  })

  test('is based on starts after similar pauses, if there are any', ({ expect }) => {
    // In each hour one cold start after 50 minutes of quiet, and nine warm ones a minute apart.
    const hours = Array.from({ length: 5 }, (_, h) =>
      Array.from({ length: 10 }, (_, k) =>
        createObservation(NOW - (5 - h) * 60 * MINUTE + k * MINUTE, { load: k === 0 ? 20 : 0 }),
      ),
    ).flat()
    const last = Math.max(...hours.map(({ finished }) => finished))
    expect(forecast(hours, 4, last + MINUTE).cold).toMatchObject({ probability: 0 })
    expect(forecast(hours, 4, last + 50 * MINUTE)).toMatchObject({
      cold: { probability: 1, observations: 4 },
      seconds: { p50: 22 },
      observations: 50,
    })
  })

  test('is based on all observations if none is similar', ({ expect }) => {
    const few = [createObservation(NOW - 4000, { load: 20 }), createObservation(NOW - 1000)]
    expect(forecast(few, 4, NOW + 600 * MINUTE).cold).toEqual({ probability: 0.5, observations: 2 })
  })
})

async function insertObservation(
  id: string,
  { created, finished, megapixel_steps, waited, load, run, tier }: Observation,
) {
  await env.DB.prepare('INSERT INTO observations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)')
    .bind(id, 'default', 'tiny', tier, created, finished, megapixel_steps, waited, load, run)
    .run()
}

describe('POST /v1/quote', () => {
  const body = { prompt: 'a cat', width: 256, height: 256 }
  test('has price, route and reason, and null for unmeasured values', async ({ expect }) => {
    const caller = await newCaller()
    const quoted = await call('POST', '/v1/quote', caller.headers, body)
    expect(quoted).toMatchObject({
      status: 200,
      body: {
        ...{ object: 'quote', price_microdollars: 200 + Math.ceil(0.065536 * 4 * 300), route: 'turbo', tier: 'fp8' },
        ...{ model: 'tiny', steps: 4, size: '256x256', reason: expect.stringContaining('short prompt') },
        ...{ cold_start: null, expected_seconds: null, observations: 0 },
      },
    })
    expect(await env.ACCOUNT.getByName(caller.account).totals()).toEqual({ reserved: 0, captured: 0 })
    const unchecked = await call('POST', '/v1/quote', caller.headers, { ...body, max_latency_ms: 1 })
    expect(unchecked.body.reason).toContain('could not be checked')
  })

  test("works without a migrated database, and the operator's status names the missing table", async ({ expect }) => {
    const { headers } = await newCaller()
    await env.DB.exec('ALTER TABLE observations RENAME TO elsewhere')
    try {
      clearObservations()
      const quoted = await call('POST', '/v1/quote', headers, body)
      expect(quoted).toMatchObject({ status: 200, body: { expected_seconds: null, observations: 0 } })
      const { status, body: problem } = await call('GET', '/v1/operator/status', operator)
      expect([status, problem.detail]).toEqual([500, expect.stringContaining('lacks a table of edge/migrations')])
    } finally {
      await env.DB.exec('ALTER TABLE elsewhere RENAME TO observations')
    }
  })

  test('honors max_cost with a cheaper route, or is refused', async ({ expect }) => {
    const { headers } = await newCaller()
    const quote = (more: unknown) => call('POST', '/v1/quote', headers, { ...body, ...(more as object) })
    const sign = { prompt: 'a sign "OPEN"' }
    expect((await quote(sign)).body).toMatchObject({ route: 'full' })
    expect((await quote({ ...sign, max_cost: 0.0005 })).body).toMatchObject({
      route: 'turbo',
      reason: expect.stringMatching(/text to be drawn.* full\/fp8 costs \$0.001302, more than max_cost, so turbo\/fp8/),
    })
    expect(await quote({ route: 'full', max_cost: 0.0005 })).toMatchObject({
      status: 422,
      body: {
        detail: 'max_cost is $0.000500, but the cheapest way to serve this request costs $0.001302.',
        error: { code: 'max_cost_exceeded', param: 'max_cost' },
      },
    })
  })

  test('contains the measured values, and applies max_latency_ms to them', async ({ expect, onTestFinished }) => {
    const { headers } = await newCaller()
    const megapixel_steps = 0.065536 * 4
    for (const k of [1, 2, 3, 4])
      await insertObservation(`seen-${k}`, createObservation(Date.now() - k * 5000, { megapixel_steps }))
    clearObservations()
    const quote = (more: unknown) => call('POST', '/v1/quote', headers, { ...body, ...(more as object) })
    expect((await quote({})).body).toMatchObject({
      cold_start: { probability: 0 },
      expected_seconds: { p50: 2, p95: 2 },
      observations: 4,
    })
    // 28 steps with guidance are 14 times the work of 4 without.
    expect((await quote({ prompt: 'a sign "OPEN"' })).body).toMatchObject({
      route: 'full',
      expected_seconds: { p95: 21.5 },
    })
    const hurried = await quote({ prompt: 'a sign "OPEN"', max_latency_ms: 5000 })
    expect(hurried.body).toMatchObject({
      route: 'turbo',
      reason: expect.stringContaining('takes longer than max_latency_ms'),
    })
    // Two devices of a GPU function divide guidance, which halves the 21 s of the steps.
    const within = { prompt: 'a sign "OPEN"', max_latency_ms: 12_000 }
    expect((await quote(within)).body).toMatchObject({ route: 'turbo' })
    env.GPU_DEVICES = '2'
    onTestFinished(() => {
      env.GPU_DEVICES = '1'
    })
    expect((await quote(within)).body).toMatchObject({ route: 'full' })
    expect((await quote({ ...within, max_latency_ms: 10_000 })).body).toMatchObject({ route: 'turbo' })
    expect(await quote({ model: 'tiny', max_latency_ms: 1500 })).toMatchObject({
      status: 422,
      body: { detail: expect.stringContaining('take up to 2000 ms here'), error: { code: 'max_latency_exceeded' } },
    })
  })

  test('names the problem, and requires a key', async ({ expect }) => {
    const { headers } = await newCaller()
    expect((await call('POST', '/v1/quote', headers, { prompt: '' })).status).toBe(400)
    expect((await call('POST', '/v1/quote', headers, { ...body, max_cost: -1 })).body).toMatchObject({
      detail: 'max_cost is -1; it must be a number of US dollars from 0 to 1000.',
    })
    expect((await call('POST', '/v1/quote', {}, body)).status).toBe(401)
  })
})

test('a finished job affects the next quote', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu(works)
  const asked = { prompt: 'a cat', width: 512, height: 512 }
  const made = await generatedOf(await generate(caller, asked))
  await runDurableObjectAlarm(env.ACCOUNT.getByName(caller.account))
  const readRow = () =>
    env.DB.prepare('SELECT * FROM observations WHERE id = ?').bind(`${caller.account}/${made.octet.job}`)
  await vi.waitFor(async () => expect(await readRow().first()).toMatchObject({ run: 0.7, load: 0, tier: 'fp8' }), 5000)
  vi.restoreAllMocks()
  clearObservations()
  const { body } = await call('POST', '/v1/quote', caller.headers, asked)
  expect(body.observations).toBeGreaterThan(0)
  expect(body.price_microdollars).toBe(made.octet.price_microdollars)
})

test('the price table is JSON text or a table, has defaults, and an error names the variable', ({ expect }) => {
  const read = (OCTET_PRICES: unknown) => createConfigWith({ OCTET_PRICES }).prices
  expect(read(undefined)).toEqual(DEFAULT_PRICES)
  const changed = { ...DEFAULT_PRICES, base: 7, megapixel_step: { ...DEFAULT_PRICES.megapixel_step, fp16: 1 } }
  expect(read('{"base": 7, "megapixel_step": {"fp16": 1}}')).toEqual(changed)
  expect(() => read({ megapixel_step: { fp64: 1 } })).toThrow('OCTET_PRICES.megapixel_step is {"fp64":1}')
})

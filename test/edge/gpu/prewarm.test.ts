// Prewarming, from the caller to the GPU's host.
import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env, exports } from 'cloudflare:workers'
import { afterEach, beforeEach, test, vi } from 'vitest'
import { clearGpuStates, prewarmOnSchedule } from '../../../edge/gpu/health.ts'
import { generate, generatedOf, newCaller } from '../support/client.ts'
import { fakeGpu, refuses, works } from '../support/fake-gpu.ts'

const warm = () => env.ENDPOINT.getByName('default')
let policy: object

/** Gives the endpoint's object its own policy and an empty history. */
async function usePolicy(change: object): Promise<Env> {
  policy = { idle_seconds: 100, start_seconds: 60, budget_seconds: 1000, ...change }
  await runInDurableObject(warm(), async (instance, ctx) => {
    await ctx.storage.deleteAll()
    await ctx.storage.deleteAlarm()
    Object.assign(instance, { env: { ...env, OCTET_PREWARM: policy } })
  })
  return { ...env, OCTET_PREWARM: policy } as never
}
beforeEach(() => usePolicy({}))
afterEach(async () => {
  vi.restoreAllMocks()
  await runInDurableObject(warm(), (_, ctx) => ctx.storage.deleteAlarm())
})

/** A host whose GPU replies to ping k with status k, and to later pings with the last status. */
function fakeHost(...statuses: number[]) {
  const pings: Request[] = []
  vi.spyOn(globalThis, 'fetch').mockImplementation(async (input, init) => {
    pings.push(new Request(input, init))
    return new Response(null, { status: statuses.length > 1 ? statuses.shift()! : statuses[0]! })
  })
  return pings
}
const waitForPings = (pings: Request[], count: number) =>
  vi.waitFor(() => pings.length >= count || Promise.reject(new Error('none')))

test('pings have the proxy headers of the host, start a cold GPU, and are repeated until it is ready', async ({
  expect,
}) => {
  const pings = fakeHost(503, 204, 200)
  expect(await warm().prewarm('default', 'quote')).toEqual({ state: 'starting', ready_in_seconds: 60 })
  await waitForPings(pings, 1)
  expect(pings[0]!.url).toBe(`${env.GPU_URL}/ping`)
  expect(pings[0]!.headers.get('modal-key')).toBe('wk-1')
  expect(pings[0]!.redirect).toBe('manual')
  await vi.waitFor(async () => expect(await runDurableObjectAlarm(warm())).toBe(true))
  expect((await warm().state()).state).toBe('starting')
  await runDurableObjectAlarm(warm())
  expect(await warm().report()).toMatchObject({ state: 'warm', starts_seen: 1, spent_today_seconds: 160 })
})

test('a named model is opened once the GPU is ready, and immediately on a warm one', async ({ expect }) => {
  const pings = fakeHost(204, 200)
  const model = { model: 'tiny', tier: 'fp8' } as const
  await warm().prewarm('default', 'visit', model)
  await waitForPings(pings, 1)
  await vi.waitFor(async () => expect(await runDurableObjectAlarm(warm())).toBe(true))
  await waitForPings(pings, 3)
  await warm().prewarm('default', 'visit', model)
  await waitForPings(pings, 4)
  const calls = pings.map(({ method, url }) => `${method} ${url.replace(env.GPU_URL, '')}`)
  expect(calls).toEqual(['GET /ping', 'GET /ping', 'PUT /models/tiny', 'PUT /models/tiny'])
  expect(pings[2]!.headers.get('authorization')).toMatch(/^Bearer ey/)
})

test('concurrent requests cause a single start', async ({ expect }) => {
  const pings = fakeHost(200)
  await Promise.all(Array.from({ length: 20 }, () => warm().prewarm('default', 'visit')))
  await waitForPings(pings, 1)
  expect(pings).toHaveLength(1)
})

test('a start that times out during a ping is not repeated', async ({ expect }) => {
  const START_LIMIT_MS = 15 * 60_000
  const starting = Date.now() - START_LIMIT_MS + 200
  await runInDurableObject(warm(), (_, ctx) =>
    ctx.storage.kv.put('warmth', { ready: null, starting, starts: [], spent: { day: '', seconds: 0 } }),
  )
  const held = vi.spyOn(globalThis, 'fetch').mockImplementation(async () => {
    await new Promise((resolve) => setTimeout(resolve, 400))
    return new Response(null, { status: 503 })
  })
  await runInDurableObject(warm(), (instance) => instance.alarm())
  expect(held).toHaveBeenCalledOnce()
  expect((await warm().state()).state).toBe('cold')
  expect(await runInDurableObject(warm(), (_, ctx) => ctx.storage.getAlarm())).toBeNull()
})

test('the daily budget limits prewarming', async ({ expect }) => {
  await usePolicy({ budget_seconds: 100 })
  const pings = fakeHost(200)
  expect(await warm().prewarm('default', 'visit')).toMatchObject({ state: 'cold' })
  expect(pings).toHaveLength(0)
})

test('the schedule keeps the GPU warm only in its hours', async ({ expect }) => {
  const scheduled = await usePolicy({ schedule: [{ from: '08:00', to: '18:00' }] })
  const pings = fakeHost(200)
  await prewarmOnSchedule(scheduled, Date.parse('2026-11-26T07:59:00Z'))
  expect(pings).toHaveLength(0)
  await prewarmOnSchedule(scheduled, Date.parse('2026-11-26T08:00:00Z'))
  await waitForPings(pings, 1)
  expect((await warm().state()).state).toBe('warm')
})

const post = (path: string, key: string, body?: object) =>
  exports.default.fetch(`https://octet.test${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify(body ?? {}),
  })

test('POST /v1/prewarm returns the state of each GPU, and requires a key', async ({ expect }) => {
  const { key } = await newCaller()
  const reply = await post('/v1/prewarm', key)
  expect(reply.status).toBe(202)
  const { data } = (await reply.json()) as { data: object[] }
  expect(data[0]).toEqual({ route: 'turbo', model: 'tiny', tier: 'fp8', state: 'cold', ready_in_seconds: 60 })
  expect((await post('/v1/prewarm', 'oct_forged')).status).toBe(401)
})

test('a quote contains the state of the GPU before and after a job', async ({ expect }) => {
  const caller = await newCaller()
  const quoteState = async () =>
    ((await (await post('/v1/quote', caller.key, { prompt: 'a cat' })).json()) as { gpu: object }).gpu
  expect(await quoteState()).toEqual({ state: 'cold', ready_in_seconds: 60 })
  fakeGpu(works)
  await generatedOf(await generate(caller, { prompt: 'a cat', seed: 1 }))
  clearGpuStates()
  expect(await quoteState()).toEqual({ state: 'warm', ready_in_seconds: 0 })
})

test('a job that waits for a GPU contains the expected wait', async ({ expect }) => {
  const { key } = await newCaller()
  fakeGpu(refuses(503, 'loading'))
  const { id } = (await (await post('/v1/jobs', key, { prompt: 'a cat', seed: 1 })).json()) as { id: string }
  await vi.waitFor(async () => {
    const reply = await exports.default.fetch(`https://octet.test/v1/jobs/${id}`, {
      headers: { authorization: `Bearer ${key}` },
    })
    const job = (await reply.json()) as { state: string; gpu: { state: string; ready_in_seconds: number } | null }
    expect(job.state).toBe('starting')
    expect(job.gpu).toMatchObject({
      state: 'starting',
      ready_in_seconds: expect.toSatisfy((left: number) => left > 0 && left <= 60),
    })
  })
})

test('an idle GPU is kept while recent gaps make that worthwhile, by pings within the budget', async ({ expect }) => {
  await usePolicy({ wait_worth: 20, idle_seconds: 60, start_seconds: 30 })
  const pings = fakeHost(200)
  const now = vi.spyOn(Date, 'now')
  let time = 1_800_000_000_000
  now.mockImplementation(() => time)
  const terms = { account: 'a', interactive: true, created: 0 }
  for (let k = 0; k < 10; k++) {
    await warm().requestSlot(`job${k}`, terms)
    await warm().recordHealth('ready')
    await warm().releaseSlot(`job${k}`)
    time += 170_000
  }
  // The last job ended 170 s ago. Its window is 180 s, of which the host keeps the first 60 s.
  await warm().requestSlot('last', terms)
  await warm().recordHealth('ready')
  await warm().releaseSlot('last')
  pings.length = 0
  const alarm = () => runInDurableObject(warm(), (_, ctx) => ctx.storage.getAlarm())
  await vi.waitFor(async () => expect(await alarm()).toBe(time + 45_000))
  time += 45_000
  await runDurableObjectAlarm(warm())
  await waitForPings(pings, 1)
  expect(await alarm()).toBe(time + 45_000)
  time += 136_000
  await runDurableObjectAlarm(warm())
  expect(pings).toHaveLength(1)
})

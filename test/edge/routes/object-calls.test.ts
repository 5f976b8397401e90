// docs/object-calls.md: how many calls to Durable Objects each route makes.
import { env } from 'cloudflare:workers'
import { afterEach, test, vi } from 'vitest'
import page from '../../../docs/object-calls.md?raw'
import { clearGpuStates } from '../../../edge/gpu/health.ts'
import { clearObservations } from '../../../edge/routing/forecast.ts'
import { type Caller, fetchWorker, newCaller, problemOf, readJob, send } from '../support/client.ts'
import {
  createAccepted,
  createFeed,
  createImage,
  createStarted,
  encodeLine,
  fakeGpu,
  timings,
  works,
} from '../support/fake-gpu.ts'
import { waitForEnd } from '../support/jobs.ts'
import { call } from '../support/operator.ts'

afterEach(() => vi.restoreAllMocks())

const BINDINGS = ['ACCOUNT', 'JOB', 'WEBHOOK', 'ENDPOINT'] as const
const documented = new Map(
  page
    .split('\n')
    .filter((row) => row.startsWith('| `'))
    .map((row) => {
      const [route, ...counts] = row.split('|').slice(1, -1)
      return [route!.trim().replaceAll('`', ''), counts.map(Number)] as const
    }),
)

const body = { prompt: 'a cat' }
type World = { caller: Caller; id: string; link: string }
const get = (path: (world: World) => string) => (world: World) =>
  fetchWorker(path(world), { headers: world.caller.headers })
const post =
  (path: string, given: unknown = body) =>
  ({ caller }: World) =>
    send('POST', path, caller, given)

const REQUESTS: Record<string, (world: World) => Promise<Response>> = {
  'POST /v1/images/generations, including its job': post('/v1/images/generations'),
  'POST /v1/jobs': post('/v1/jobs'),
  'PUT /v1/jobs/{id}': ({ caller }) => send('PUT', '/v1/jobs/another', caller, body),
  'GET /v1/jobs': get(() => '/v1/jobs?limit=100'),
  'GET /v1/jobs/{id}': get(({ id }) => `/v1/jobs/${id}`),
  'GET /v1/jobs/{name}': get(() => '/v1/jobs/mine'),
  'GET /v1/jobs/{id}/events': get(({ id }) => `/v1/jobs/${id}/events`),
  'GET /v1/jobs/{id}/receipts': get(({ id }) => `/v1/jobs/${id}/receipts`),
  'DELETE /v1/jobs/{id}': ({ caller, id }) => send('DELETE', `/v1/jobs/${id}`, caller),
  'GET /v1/results/{job}/{file} with a key': get(({ link }) => new URL(link).pathname),
  'GET /v1/results/{job}/{file} with a link': ({ link }) => fetchWorker(link),
  'POST /v1/quote': post('/v1/quote'),
  'POST /v1/prewarm': post('/v1/prewarm', {}),
  'GET /v1/models': get(() => '/v1/models'),
  'GET /v1/usage': get(() => '/v1/usage'),
  'POST /v1/tokens': post('/v1/tokens', { scope: 'generate', budget_microdollars: 1000 }),
  'GET /v1/webhooks': get(() => '/v1/webhooks'),
  'GET /v1/keys': get(() => '/v1/keys'),
  'GET /healthz': get(() => '/healthz'),
}

test('every documented route is measured', ({ expect }) => {
  expect([...documented.keys()].toSorted()).toEqual(Object.keys(REQUESTS).toSorted())
})

/** A caller with a finished job called mine and ten others. */
async function prepare(): Promise<World> {
  const caller = await newCaller({ scopes: ['generate', 'read', 'admin'] })
  fakeGpu(works)
  const { id } = await readJob(await send('PUT', '/v1/jobs/mine', caller, body))
  await Promise.all(
    Array.from({ length: 10 }, async () => waitForEnd(await readJob(await send('POST', '/v1/jobs', caller, body)))),
  )
  await waitForEnd({ id })
  const { images } = await readJob(await send('GET', '/v1/jobs/mine', caller))
  return { caller, id, link: images[0]!.url }
}

test.for(Object.entries(REQUESTS))('%s makes the documented calls', async ([name, ask], { expect }) => {
  const world = await prepare()
  clearGpuStates()
  clearObservations()
  // The job continues after the reply. Its calls count up to its acceptance.
  const { behavior, send: feed } = createFeed()
  const gpu = name.startsWith('POST /v1/images') ? works : behavior
  const calls = fakeGpu(gpu)
  const spies = BINDINGS.map((binding) => vi.spyOn(env[binding], 'getByName'))
  const response = await ask(world)
  const counts = spies.map((spy) => spy.mock.calls.length)
  for (const spy of spies) spy.mockRestore()
  await response.body?.cancel()
  expect(response.status, name).toBeLessThan(300)
  expect(counts, `${name}: ${BINDINGS.join(', ')}`).toEqual(documented.get(name))
  const [seen] = calls
  if (seen && gpu === behavior) {
    feed(
      createAccepted(seen),
      createStarted(seen),
      ...(await createImage(seen, 0)),
      encodeLine({ type: 'succeeded', images: 1, timings }),
    )
    await waitForEnd({ id: seen.job })
  }
})

test('keys and browser tokens have separate request limits, and requests beyond them are refused', async ({
  expect,
}) => {
  const caller = await newCaller()
  const { body: minted } = await call<{ token: string; id: string }>('POST', '/v1/tokens', caller.headers, {
    ...{ scope: 'generate', budget_microdollars: 1000 },
  })
  const limit = vi.spyOn(env.REQUEST_LIMIT, 'limit').mockResolvedValue({ success: false })
  for (const path of ['/v1/jobs', '/v1/jobs/x', '/v1/usage', '/v1/models']) {
    const response = await fetchWorker(path, { headers: caller.headers })
    expect([response.status, (await problemOf(response)).error.code]).toEqual([429, 'rate_limited'])
    expect(response.headers.get('retry-after')).toBe('60')
  }
  for (const path of ['/v1/quote', '/v1/jobs', '/v1/images/generations'])
    expect((await send('POST', path, caller, body)).status).toBe(429)
  const reads = await fetchWorker('/v1/models', { headers: { authorization: `Bearer ${minted.token}` } })
  expect(reads.status).toBe(429)
  const holders = new Set(limit.mock.calls.map(([{ key }]) => key))
  expect(holders).toEqual(new Set([`${caller.account}/key/${caller.keyId}`, `${caller.account}/token/${minted.id}`]))
})

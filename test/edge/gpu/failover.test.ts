// Offers with several endpoints: the order of requests, and that one job runs on one endpoint.
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, test, vi } from 'vitest'
import { orderEndpoints, reportHealth } from '../../../edge/gpu/health.ts'
import { generate, generatedOf, ledgerOf, newCaller } from '../support/client.ts'
import {
  type Behavior,
  cancellations,
  createAccepted,
  encodeLine,
  fakeGpu,
  refuses,
  type SeenRequest,
  stream,
  timings,
  works,
} from '../support/fake-gpu.ts'

const DEFAULT = new URL(env.GPU_URL).host
const SPARE = 'spare.test'
const body = { prompt: 'a cat', seed: 1, model: 'paired' }
beforeEach(async () => {
  await Promise.all(['default', 'spare'].map((name) => reportHealth(env, name, 'ready')))
})
afterEach(() => vi.restoreAllMocks())

/** A GPU function at each host. Call k of a host has its behavior k, and further calls have its last one. */
function fakeGpus(first: Behavior[], spare: Behavior[]): SeenRequest[] {
  const left = { [DEFAULT]: [...first], [SPARE]: [...spare] }
  return fakeGpu((seen) => {
    const mine = left[seen.host]!
    return (mine.length > 1 ? mine.shift()! : mine[0]!)(seen)
  })
}
const listHosts = (calls: readonly SeenRequest[]) => calls.map(({ host }) => host)
const silent: Behavior = ({ signal }) =>
  new Promise((_, reject) => signal!.addEventListener('abort', () => reject(signal!.reason)))
const unreachable: Behavior = () => {
  throw new TypeError('connect ECONNREFUSED')
}

async function run(calls: SeenRequest[]) {
  const caller = await newCaller()
  const response = await generate(caller, body)
  const { octet } = await generatedOf(response)
  const job = (await env.JOB.getByName(octet.job).view())!
  return { caller, job, asked: listHosts(calls) }
}

test.for<[string, Behavior]>([
  ['cannot be reached', unreachable],
  ['answers 502', () => new Response(null, { status: 502 })],
  ['is gone: 404', () => new Response('app stopped', { status: 404 })],
  ['refuses the token', refuses(401, 'token_invalid')],
])('the fallback gets the job immediately if the first endpoint %s', async ([, behavior], { expect }) => {
  const { job, asked, caller } = await run(fakeGpus([behavior], [works]))
  expect(asked).toEqual([DEFAULT, SPARE])
  expect(job).toMatchObject({ state: 'succeeded', attempt: 1, endpoint: 'spare' })
  expect((await ledgerOf(caller)).captured).toBe(job.price)
})

test('the fallback gets the job if the first endpoint is silent, which then receives a cancellation', async ({
  expect,
}) => {
  const { job, asked } = await run(fakeGpus([silent], [works]))
  expect(asked).toEqual([DEFAULT, SPARE])
  expect(job).toMatchObject({ state: 'succeeded', attempt: 1, endpoint: 'spare' })
  await vi.waitFor(() => expect(cancellations).toEqual([{ job: job.id, attempt: 1 }]))
})

test('an endpoint with a cancellation is skipped for the rest of the attempt, which it would report as canceled', async ({
  expect,
}) => {
  const dropped: Behavior = (seen) =>
    stream([createAccepted(seen), encodeLine({ type: 'canceled', steps_done: 0, timings })])
  const busy = refuses(503, 'loading')
  const { job, asked } = await run(fakeGpus([silent, dropped], [busy, busy, works]))
  expect(asked).toEqual([DEFAULT, SPARE, SPARE, SPARE])
  expect(job).toMatchObject({ state: 'succeeded', attempt: 1, endpoint: 'spare' })
})

test('the fallback is tried only after a wait for a first endpoint that is starting', async ({ expect }) => {
  const { job, asked } = await run(fakeGpus([refuses(503, 'loading'), works], [works]))
  expect(asked).toEqual([DEFAULT, DEFAULT])
  expect(job).toMatchObject({ state: 'succeeded', endpoint: 'default' })
})

test('a first endpoint that starts too slowly causes a failover', async ({ expect }) => {
  const { job, asked } = await run(fakeGpus([refuses(503, 'loading')], [works]))
  expect(asked.at(-1)).toBe(SPARE)
  expect(asked.slice(0, -1).every((host) => host === DEFAULT)).toBe(true)
  expect(job).toMatchObject({ state: 'succeeded', attempt: 1, endpoint: 'spare' })
})

test('the next attempt begins with the other endpoint', async ({ expect }) => {
  const cut: Behavior = (seen) => stream([createAccepted(seen)], 'cut')
  const { job, asked } = await run(fakeGpus([cut], [works]))
  expect(asked).toEqual([DEFAULT, SPARE])
  expect(job).toMatchObject({ state: 'succeeded', attempt: 2, endpoint: 'spare' })
})

test('the run of a lost attempt is also canceled if the next attempt has to search for a GPU', async ({ expect }) => {
  const cut: Behavior = (seen) => stream([createAccepted(seen)], 'cut')
  const { job, asked } = await run(fakeGpus([cut], [refuses(503, 'loading'), works]))
  expect(asked).toEqual([DEFAULT, SPARE, SPARE])
  expect(job).toMatchObject({ state: 'succeeded', attempt: 2, endpoint: 'spare' })
  await vi.waitFor(() => expect(cancellations).toEqual([{ job: job.id, attempt: 1 }]))
})

test('the run of a lost attempt is also canceled if no GPU accepts the next one', async ({ expect }) => {
  const cut: Behavior = (seen) => stream([createAccepted(seen)], 'cut')
  const gone = refuses(400, 'invalid_request')
  const calls = fakeGpus([cut, gone], [gone])
  expect((await generate(await newCaller(), body)).status).toBe(500)
  expect(listHosts(calls)).toEqual([DEFAULT, SPARE, DEFAULT])
  await vi.waitFor(() => expect(cancellations).toEqual([{ job: calls[0]!.job, attempt: 1 }]))
})

test('a job refused by all endpoints fails like a job refused by a single endpoint', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpus([refuses(400, 'invalid_request')], [refuses(400, 'invalid_request')])
  const response = await generate(caller, body)
  expect(response.status).toBe(500)
  expect(listHosts(calls)).toEqual([DEFAULT, SPARE])
  expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
})

test('an endpoint that was down is tried last for some time, and its object stores this state', async ({ expect }) => {
  const now = Date.now()
  expect(orderEndpoints(['default', 'spare'], 1)).toEqual(['default', 'spare'])
  expect(orderEndpoints(['default', 'spare'], 2)).toEqual(['spare', 'default'])
  await reportHealth(env, 'default', 'down')
  expect(orderEndpoints(['default', 'spare'], 1, now + 29_000)).toEqual(['spare', 'default'])
  expect(orderEndpoints(['default', 'spare'], 1, now + 31_000)).toEqual(['default', 'spare'])
  expect(await env.ENDPOINT.getByName('default').report()).toMatchObject({ down: true })
  await reportHealth(env, 'default', 'ready')
  expect(await env.ENDPOINT.getByName('default').report()).toMatchObject({ down: false })
})

test("each host gets its own headers, and the edge's token in a separate header if the host reserves authorization", async ({
  expect,
}) => {
  const calls = fakeGpus([unreachable], [works])
  await run(calls)
  const [first, spare] = calls
  expect(first!.headers.get('modal-key')).toBe('wk-1')
  expect(first!.headers.get('modal-secret')).toBe('ws-1')
  expect(first!.headers.get('authorization')).toMatch(/^Bearer ey/)
  expect(spare!.headers.get('authorization')).toBe('Bearer of-the-host')
  expect(spare!.headers.get('octet-authorization')).toMatch(/^Bearer ey/)
  expect(spare!.headers.get('modal-key')).toBeNull()
})

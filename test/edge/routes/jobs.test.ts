// Asynchronous jobs: submission, names, waits and lists.
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import {
  type Caller,
  fetchWorker,
  filesOf,
  type JobBody,
  ledgerOf,
  newCaller,
  problemOf,
  readJob,
  send,
} from '../support/client.ts'
import { createFeed, createStarted, createSteps, encodeLine, fakeGpu, refuses, works } from '../support/fake-gpu.ts'
import { waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

const body = { prompt: 'a cat' }
const submit = (caller: Caller, headers: Record<string, string> = {}, fields: object = body) =>
  send('POST', '/v1/jobs', caller, fields, headers)

describe('POST /v1/jobs', () => {
  test('responds immediately with the job, which then runs without a caller', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    const response = await submit(caller)
    const job = await readJob(response)
    expect(response.status).toBe(202)
    expect(response.headers.get('location')).toBe(`/v1/jobs/${job.id}`)
    expect(job).toMatchObject({ state: 'queued', name: null, images: [], price_microdollars: 0 })

    await waitForEnd(job)
    const done = await fetchWorker(response.headers.get('location')!, { headers: caller.headers })
    const { state, attempt, images, price_microdollars } = await readJob(done)
    expect({ state, attempt }).toEqual({ state: 'succeeded', attempt: 1 })
    expect(images[0]!.receipt.split('.')).toHaveLength(3)
    expect((await fetchWorker(images[0]!.url)).status).toBe(200)
    expect(calls).toHaveLength(1)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: price_microdollars })
  })

  test('waits for the end up to the preferred time', async ({ expect }) => {
    const caller = await newCaller()
    const { behavior } = createFeed()
    fakeGpu(works, behavior)
    const done = await submit(caller, { prefer: 'wait=30' })
    expect([done.status, done.headers.get('preference-applied')]).toEqual([200, 'wait=30'])
    expect((await readJob(done)).state).toBe('succeeded')
    expect(done.headers.get('server-timing')).toMatch(/^wait;dur=\d+, queue;dur=0, .*denoise;dur=500, .*total;dur=\d+$/)
    const open = await submit(caller, { prefer: 'respond-async, wait=1' })
    expect([open.status, open.headers.get('preference-applied')]).toEqual([202, 'wait=1'])
    await send('DELETE', `/v1/jobs/${(await readJob(open)).id}`, caller)
  })

  test('the same Idempotency-Key gives the same job, running or ended', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    const key = { 'idempotency-key': 'order-1' }
    const first = await readJob(await submit(caller, key))
    const again = await readJob(await submit(caller, key))
    await waitForEnd(first)
    const later = await submit(caller, key)
    expect(later.status).toBe(200)
    expect([again.id, (await readJob(later)).id]).toEqual([first.id, first.id])
    expect((await submit(caller, key, { prompt: 'a dog' })).status).toBe(422)
    expect(calls).toHaveLength(1)
  })

  test('refuses an invalid request, a missing key and a key without the scope, free of charge', async ({ expect }) => {
    const caller = await newCaller()
    expect((await submit(caller, {}, { prompt: '' })).status).toBe(400)
    expect((await send('POST', '/v1/jobs', { headers: {} }, body)).status).toBe(401)
    expect((await submit(await newCaller({ scopes: ['read'] }))).status).toBe(403)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })
})

describe('PUT /v1/jobs/{id}', () => {
  test('is idempotent: one job, one price, by name or id', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    const put = (fields: object) => send('PUT', '/v1/jobs/order-17', caller, fields)
    const both = await Promise.all([put(body), put(body)])
    const [first, second] = await Promise.all(both.map(readJob))
    expect(second!.id).toBe(first!.id)
    expect(first!.name).toBe('order-17')
    await waitForEnd(first!)
    const later = await put(body)
    expect([later.status, (await readJob(later)).state]).toEqual([200, 'succeeded'])
    for (const name of ['order-17', first!.id])
      expect((await readJob(await send('GET', `/v1/jobs/${name}`, caller))).id).toBe(first!.id)
    expect(calls).toHaveLength(1)
    expect(await filesOf(caller)).toHaveLength(1)

    const other = await put({ prompt: 'a dog' })
    expect([other.status, (await problemOf(other)).error.code]).toEqual([422, 'idempotency_mismatch'])
  })

  test('scopes the name to the account: the same name in another account is another job', async ({ expect }) => {
    const [caller, other] = [await newCaller(), await newCaller()]
    fakeGpu(works)
    const [mine, theirs] = await Promise.all(
      [caller, other].map(async (each) => readJob(await send('PUT', '/v1/jobs/a', each, body))),
    )
    expect(mine!.id).not.toBe(theirs!.id)
    for (const path of [`/v1/jobs/${theirs!.id}`, `/v1/jobs/${theirs!.id}/events`])
      expect((await send('GET', path, caller)).status).toBe(404)
    expect((await send('DELETE', `/v1/jobs/${theirs!.id}`, caller)).status).toBe(404)
    await Promise.all([waitForEnd(mine!), waitForEnd(theirs!)])
  })

  test.for(['job_1', 'a.b', 'x'.repeat(65)])('rejects the id %s', async (id, { expect }) => {
    const response = await send('PUT', `/v1/jobs/${id}`, await newCaller(), body)
    const { detail, error } = await problemOf(response)
    expect([response.status, error.param]).toEqual([400, 'id'])
    expect(detail).toContain(`id is "${id}"; it must be 1 to 64 letters`)
  })
})

describe('the fields of a job', () => {
  test('progress from a queue position to starting to step k of n', async ({ expect }) => {
    const caller = await newCaller()
    const { behavior, send: feed, close } = createFeed()
    const calls = fakeGpu(refuses(503, 'loading'), behavior)
    const { id } = await readJob(await submit(caller))
    const shows = (expected: object) =>
      vi.waitFor(
        async () => expect(await readJob(await send('GET', `/v1/jobs/${id}`, caller))).toMatchObject(expected),
        {
          timeout: 5000,
        },
      )
    await shows({ state: 'starting', progress: null })
    await vi.waitFor(() => expect(calls).toHaveLength(2), { timeout: 5000 })
    feed(encodeLine({ type: 'accepted', job: id, attempt: 1, position: 3 }))
    await shows({ state: 'queued', progress: { position: 3 } })
    feed(createStarted(calls[1]!), ...createSteps(2, 4))
    await shows({ state: 'running', progress: { image: 0, step: 2, steps: 4 } })
    close()
    await send('DELETE', `/v1/jobs/${id}`, caller)
    expect((await waitForEnd({ id })).state).toBe('canceled')
  })
})

describe('GET /v1/jobs', () => {
  type Page = { data: JobBody[]; has_more: boolean; next_after: string | null }
  const list = async (caller: Caller, query: string) =>
    (await (await send('GET', `/v1/jobs?${query}`, caller)).json()) as Page

  test('lists all jobs, newest first, despite new jobs in the meantime', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    const ids: string[] = []
    for (let k = 0; k < 5; k++) ids.unshift((await readJob(await submit(caller))).id)
    const first = await list(caller, 'limit=2')
    await submit(caller)
    const second = await list(caller, `limit=2&after=${first.next_after}`)
    const third = await list(caller, `limit=2&after=${second.next_after}`)
    expect([first, second, third].map(({ data }) => data.map(({ id }) => id))).toEqual([
      ids.slice(0, 2),
      ids.slice(2, 4),
      ids.slice(4),
    ])
    expect([first, second, third].map(({ has_more }) => has_more)).toEqual([true, true, false])
    expect(third.next_after).toBeNull()
    const unknown = await send('GET', '/v1/jobs?after=job_0', caller)
    expect([unknown.status, (await problemOf(unknown)).error.param]).toEqual([400, 'after'])
    expect(await env.ACCOUNT.getByName(caller.account).recentJobs(10)).toHaveLength(6)
  })
})

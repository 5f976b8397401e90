// The number of POSTs that an account can cause at a receiver: one per event and address, a bounded number of replays, and few to a failing
// receiver.

import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { Webhook } from 'standardwebhooks'
import { afterEach, describe, test, vi } from 'vitest'
import { announce, eventOf } from '../../../edge/jobs/announcement.ts'
import { normalizeAddress } from '../../../edge/webhooks/endpoints/address.ts'
import { FAILURES_TO_OPEN } from '../../../edge/webhooks/endpoints/breaker.ts'
import { type Caller, problemOf } from '../support/client.ts'
import { createFinalJob } from '../support/jobs.ts'
import {
  addEndpoint,
  callWebhookApi,
  deliveriesOf,
  outboxOf,
  receiversOf,
  testWithReceiver,
  waitForDeliveries,
} from '../support/manager.ts'
import { fakeReceiver, RECEIVER, type ReceivedRequest, waitForRequests } from '../support/receiver.ts'

const PER_MINUTE = Number(env.WEBHOOK_REPLAYS_PER_MINUTE)
const since = new Date(0).toISOString()

let caller: Caller
let calls: ReceivedRequest[]
testWithReceiver((...fresh) => {
  ;[caller, calls] = fresh
})
afterEach(() => {
  env.WEBHOOK_BREAKER_SECONDS = '0'
})

const readJson = async <T>(response: Response | Promise<Response>) => (await (await response).json()) as T

async function replay(id: string, span: Record<string, string>): Promise<{ count: number; next: string | null }> {
  const reply = await callWebhookApi(caller, 'POST', `/${id}/replay`, span)
  if (reply.status !== 202) throw new Error(`${reply.status} ${await reply.text()}`)
  return reply.json()
}

/** Delivers this number of events to the caller's endpoints. */
async function deliver(count: number): Promise<string[]> {
  const jobs = Array.from({ length: count }, () => createFinalJob(caller))
  for (const job of jobs) await announce(env, job)
  await waitForDeliveries(caller)
  return jobs.map((job) => eventOf(job).id)
}

describe('one event to one address is one POST', () => {
  test('a URL is registered once, in any notation; the refusal names the existing endpoint', async ({ expect }) => {
    const url = `${RECEIVER}/in?a=1`
    const { id } = await addEndpoint(caller, { url })
    const host = RECEIVER.slice('https://'.length)
    const spellings = [
      url,
      `${url}#fragment`,
      `HTTPS://${host.toUpperCase()}:443/in?a=1`,
      `https://${host}./in?a=1`,
      `${RECEIVER}/x/../in?a=1`,
      `${RECEIVER}/%2e/in?a=1`,
    ]
    for (const spelling of spellings) {
      const refused = await callWebhookApi(caller, 'POST', '', { url: spelling })
      const { error } = await problemOf(refused)
      expect([spelling, refused.status, error.code, error.param]).toEqual([spelling, 409, 'webhook_exists', 'url'])
      expect(error.message).toContain(id)
    }
    const others = [`${RECEIVER}/in?a=2`, `${RECEIVER}/in`, `${RECEIVER}:8443/in?a=1`]
    expect(new Set([url, ...others].map(normalizeAddress)).size).toBe(4)
    expect((await callWebhookApi(caller, 'POST', '', { url: others[0] })).status).toBe(201)
  })

  test('twenty concurrent registrations of one URL create one endpoint', async ({ expect }) => {
    const made = await Promise.all(
      Array.from({ length: 20 }, () => callWebhookApi(caller, 'POST', '', { url: `${RECEIVER}/in` })),
    )
    expect(made.map(({ status }) => status).toSorted()).toEqual([201, ...Array(19).fill(409)])
    await deliver(1)
    expect(calls).toHaveLength(1)
  })

  test('an endpoint cannot change its URL to that of another endpoint, but can repeat its own', async ({ expect }) => {
    const first = await addEndpoint(caller)
    const second = await addEndpoint(caller, { url: `${RECEIVER}/other` })
    const refused = await callWebhookApi(caller, 'PATCH', `/${second.id}`, { url: `${RECEIVER}/in#again` })
    const { error } = await problemOf(refused)
    expect([refused.status, error.code]).toEqual([409, 'webhook_exists'])
    expect(error.message).toContain(first.id)
    expect((await callWebhookApi(caller, 'PATCH', `/${second.id}`, { url: `${RECEIVER}/other#2` })).status).toBe(200)
    expect((await callWebhookApi(caller, 'PATCH', `/${second.id}`, { url: `${RECEIVER}/moved` })).status).toBe(200)
    expect((await callWebhookApi(caller, 'POST', '', { url: `${RECEIVER}/other` })).status).toBe(201)
  })

  test('a host has at most five endpoints', async ({ expect }) => {
    const statuses = []
    for (let k = 0; k < 6; k++)
      statuses.push((await callWebhookApi(caller, 'POST', '', { url: `https://many.octet-customer.com/${k}` })).status)
    expect(statuses).toEqual([...Array(5).fill(201), 400])
    const refused = await problemOf(
      await callWebhookApi(caller, 'POST', '', { url: 'https://many.octet-customer.com./7' }),
    )
    expect(refused.detail).toBe(
      'An account has at most 5 webhook endpoints on one host, and many.octet-customer.com. has as many; delete one first.',
    )
    expect((await callWebhookApi(caller, 'POST', '', { url: 'https://other.octet-customer.com/7' })).status).toBe(201)
  })

  test('a request with the URL of an endpoint causes one POST, which either secret verifies', async ({ expect }) => {
    const { id, secret } = await addEndpoint(caller)
    const job = createFinalJob(caller, { webhook: `${RECEIVER}/in#mine` })
    await announce(env, job)
    await waitForDeliveries(caller)
    const { key } = await readJson<{ key: string }>(callWebhookApi(caller, 'GET', '/default/secret'))
    expect(calls.map(({ url, headers }) => [url.split('#')[0], headers['webhook-id']])).toEqual([
      [`${RECEIVER}/in`, eventOf(job).id],
    ])
    for (const each of [secret, key]) new Webhook(each).verify(calls[0]!.body, calls[0]!.headers)
    expect(await deliveriesOf(caller, 'default')).toEqual([])
    expect(await deliveriesOf(caller, id)).toMatchObject([{ state: 'delivered' }])
  })

  test('a request with the URL of an endpoint causes a POST even if the endpoint has not subscribed to the event type', async ({
    expect,
  }) => {
    await addEndpoint(caller, { events: ['job.failed'] })
    await announce(env, createFinalJob(caller, { webhook: `${RECEIVER}/in` }))
    await waitForDeliveries(caller)
    expect(calls).toHaveLength(1)
    expect(await deliveriesOf(caller, 'default')).toMatchObject([{ state: 'delivered' }])
  })
})

describe('replay', () => {
  test('of a delivered event requires an explicit option, for one event and for a range', async ({ expect }) => {
    const { id } = await addEndpoint(caller)
    const [event] = await deliver(1)
    const refused = await callWebhookApi(caller, 'POST', `/${id}/deliveries/${event}/replay`)
    const { error } = await problemOf(refused)
    expect([refused.status, error.code, error.param]).toEqual([409, 'webhook_delivered', 'only'])
    expect(error.message).toContain('{"only": "all"}')
    expect(await readJson(callWebhookApi(caller, 'POST', `/${id}/replay`, { since }))).toMatchObject({ count: 0 })
    await waitForDeliveries(caller)
    expect(calls).toHaveLength(1)
    expect((await callWebhookApi(caller, 'POST', `/${id}/deliveries/${event}/replay`, { only: 'all' })).status).toBe(
      202,
    )
    await waitForDeliveries(caller)
    expect(await readJson(callWebhookApi(caller, 'POST', `/${id}/replay`, { since, only: 'all' }))).toMatchObject({
      count: 1,
    })
    await waitForDeliveries(caller)
    expect(calls).toHaveLength(3)
    const wrong = await callWebhookApi(caller, 'POST', `/${id}/deliveries/${event}/replay`, { only: 'some' })
    expect((await problemOf(wrong)).detail).toBe('only is "some"; it must be one of undelivered, all.')
  })

  test('is rate-limited for single events, ranges and test events: sixty calls cause a bounded number of POSTs', async ({
    expect,
  }) => {
    const { id } = await addEndpoint(caller)
    const events = await deliver(20)
    const before = calls.length
    const requests = Array.from({ length: 60 }, (_, k) => {
      if (k % 3 === 0)
        return callWebhookApi(caller, 'POST', `/${id}/deliveries/${events[k % 20]}/replay`, { only: 'all' })
      return k % 3 === 1
        ? callWebhookApi(caller, 'POST', `/${id}/replay`, { since, only: 'all' })
        : callWebhookApi(caller, 'POST', `/${id}/test`)
    })
    const replies = await Promise.all(requests)
    await waitForDeliveries(caller)
    expect(new Set(replies.map(({ status }) => status))).toEqual(new Set([202, 429]))
    // Tokens that the bucket may gain during the test.
    const refill = PER_MINUTE / 2
    expect(calls.length - before).toBeLessThanOrEqual(PER_MINUTE + refill)
    for (const path of [`/${id}/deliveries/${events[0]}/replay`, `/${id}/replay`, `/${id}/test`]) {
      await emptyBucket()
      const refused = await callWebhookApi(caller, 'POST', path, path.endsWith('test') ? undefined : createBody(path))
      expect([path, refused.status, (await problemOf(refused)).error.code]).toEqual([path, 429, 'rate_limited'])
      expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
    }
  })

  const createBody = (path: string) =>
    path.endsWith('/deliveries') ? {} : { only: 'all', ...(path.includes('evt_') ? {} : { since }) }
  const emptyBucket = () =>
    runInDurableObject(outboxOf(caller), (_, { storage }) =>
      storage.sql.exec('UPDATE replay_bucket SET tokens = 0, refilled = ?', Date.now()),
    )

  test('of a range continues after the rate limit, without gaps and duplicates', async ({ expect }) => {
    const { id } = await addEndpoint(caller)
    const events = await deliver(30)
    const before = calls.length
    const counts: number[] = []
    for (let from: string | null = since; from !== null; ) {
      await runInDurableObject(outboxOf(caller), (_, { storage }) =>
        storage.sql.exec('INSERT OR REPLACE INTO replay_bucket VALUES (1, 7.5, ?)', Date.now()),
      )
      const { count, next } = await replay(id, { since: from, only: 'all' })
      counts.push(count)
      from = next
    }
    await waitForDeliveries(caller)
    expect(counts.every((count) => count > 0)).toBe(true)
    expect(
      calls
        .slice(before)
        .map(({ headers }) => headers['webhook-id'])
        .toSorted(),
    ).toEqual(events.toSorted())
  })

  test('of a long range scans a bounded number of events per call, and continues to the end', async ({ expect }) => {
    const { id } = await addEndpoint(caller)
    const now = Date.now()
    await runInDurableObject(outboxOf(caller), (_, { storage: { sql } }) => {
      sql.exec(
        `WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 12000)
         INSERT INTO events SELECT 'evt_' || n, 'job.succeeded', '{"data":{}}', 'https://octet.test', ? + n FROM numbers`,
        now - 86_400_000,
      )
      sql.exec(
        `INSERT INTO deliveries (event, endpoint, state, failures, due, lease, leased_until)
         SELECT id, ?, 'delivered', 0, 0, 1, 0 FROM events WHERE id <> 'evt_12000'`,
        id,
      )
    })
    const counts: number[] = []
    for (let from: string | null = since; from !== null; ) {
      const { count, next } = await replay(id, { since: from })
      counts.push(count)
      from = next
    }
    await waitForDeliveries(caller)
    expect(counts).toEqual([0, 0, 1])
    expect(calls.map(({ headers }) => headers['webhook-id'])).toEqual(['evt_12000'])
  })
})

describe('a receiver that fails', () => {
  test('gets few POSTs of a flood of jobs with URLs on its host', async ({ expect }) => {
    env.WEBHOOK_BREAKER_SECONDS = '3600'
    vi.restoreAllMocks()
    calls = fakeReceiver(() => 404)
    const jobs = Array.from({ length: 60 }, (_, k) => createFinalJob(caller, { webhook: `${RECEIVER}/${k}?victim` }))
    await Promise.all(jobs.map((job) => announce(env, job)))
    await vi.waitFor(async () => expect((await receiversOf(caller))[0]!.open_until).toBeGreaterThan(Date.now()))
    await waitForRequests(calls, FAILURES_TO_OPEN)
    // Only attempts that were in progress at the fifth failure follow it.
    expect(calls.length).toBeLessThan(FAILURES_TO_OPEN + 4)
    expect(await receiversOf(caller)).toHaveLength(1)
  })

  test('gets one more POST for each replay requested by its owner', async ({ expect }) => {
    env.WEBHOOK_BREAKER_SECONDS = '3600'
    vi.restoreAllMocks()
    calls = fakeReceiver(() => 404)
    const { id } = await addEndpoint(caller)
    for (const job of Array.from({ length: 10 }, () => createFinalJob(caller))) await announce(env, job)
    const opened = async (openings: number) =>
      vi.waitFor(async () => expect(await receiversOf(caller)).toMatchObject([{ openings }]))
    await opened(1)
    const before = calls.length
    for (const openings of [2, 3]) {
      expect((await callWebhookApi(caller, 'POST', `/${id}/test`)).status).toBe(202)
      await opened(openings)
    }
    expect(calls.length).toBe(before + 2)
  })
})

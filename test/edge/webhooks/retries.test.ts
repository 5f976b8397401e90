// Receivers that fail, request a pause, are gone, or redirect: every event arrives, or its delivery is marked as failed.

import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { Webhook } from 'standardwebhooks'
import { afterEach, describe, test, vi } from 'vitest'
import { configOf } from '../../../edge/config.ts'
import { announce, eventOf } from '../../../edge/jobs/announcement.ts'
import { settleAttempt, takeAttempt } from '../../../edge/webhooks/delivery/attempts.ts'
import { findDelivery } from '../../../edge/webhooks/delivery/deliveries.ts'
import { findNextAttempt } from '../../../edge/webhooks/endpoints/receivers.ts'
import type { Caller } from '../support/client.ts'
import { createFinalJob } from '../support/jobs.ts'
import {
  addEndpoint,
  callWebhookApi,
  deliveriesOf,
  newManager,
  outboxOf,
  passTime,
  receiversOf,
  waitForDeliveries,
} from '../support/manager.ts'
import { createHangingReceiver, fakeReceiver, RECEIVER, waitForRequests } from '../support/receiver.ts'

afterEach(() => vi.restoreAllMocks())

const listStates = async (caller: Caller, endpoint: string) =>
  (await deliveriesOf(caller, endpoint)).map(({ state, attempts }) => [state, attempts.map(({ status }) => status)])

const settings = configOf(env).webhooks

/** An endpoint with this number of events. The test makes the attempts itself, because the alarm of the outbox is removed. */
async function createIdleEndpoint(caller: Caller, count: number) {
  const { id } = await addEndpoint(caller)
  const jobs = Array.from({ length: count }, () => createFinalJob(caller))
  await runInDurableObject(outboxOf(caller), async (outbox, { storage }) => {
    vi.spyOn(storage, 'setAlarm').mockResolvedValue()
    for (const job of jobs) await outbox.publish(eventOf(job), null)
  })
  return { id, events: jobs.map((job) => eventOf(job).id) }
}

test('a receiver that fails half of the requests gets all events, each signed and under one id', async ({ expect }) => {
  const caller = await newManager()
  const tried = new Map<string, number>()
  const calls = fakeReceiver(({ headers: { 'webhook-id': message = '' } }) => {
    const failures = tried.get(message) ?? 0
    tried.set(message, failures + 1)
    // Some messages are accepted immediately, others after up to three failures.
    return failures < Number.parseInt(message.at(-1)!, 16) % 4 ? [500, 404, 301][failures]! : 200
  })
  const { id, secret } = await addEndpoint(caller)
  const jobs = Array.from({ length: 40 }, () => createFinalJob(caller))
  await Promise.all(jobs.map((job) => announce(env, job)))
  await waitForDeliveries(caller)
  for (const { body, headers } of calls) new Webhook(secret).verify(body, headers)
  const delivered = await outboxOf(caller).deliveries(id, { limit: 100, state: 'delivered' })
  expect(new Set(delivered.map(({ event }) => event))).toEqual(new Set(jobs.map((job) => eventOf(job).id)))
  for (const { attempts } of delivered) {
    expect(attempts.slice(0, -1).every(({ status }) => status !== 200)).toBe(true)
    expect(attempts.at(-1)!.status).toBe(200)
  }
  expect(calls).toHaveLength(delivered.flatMap(({ attempts }) => attempts).length)
})

test('after ten attempts a delivery is given up, with a log line, and can be replayed', async ({ expect }) => {
  const caller = await newManager()
  const logged = vi.spyOn(console, 'error')
  let healthy = false
  const calls = fakeReceiver(() => (healthy ? 200 : 500))
  const { id } = await addEndpoint(caller)
  const job = createFinalJob(caller)
  await announce(env, job)
  await waitForDeliveries(caller)
  expect(await listStates(caller, id)).toEqual([['exhausted', Array(10).fill(500)]])
  expect(new Set(calls.map(({ headers }) => headers['webhook-id'])).size).toBe(1)
  expect(logged.mock.calls.flat().join()).toContain('a webhook was given up')
  healthy = true
  const replay = await callWebhookApi(caller, 'POST', `/${id}/deliveries/${eventOf(job).id}/replay`)
  expect(replay.status).toBe(202)
  await waitForRequests(calls, 11)
  await waitForDeliveries(caller)
  expect(await listStates(caller, id)).toEqual([['delivered', [...Array(10).fill(500), 200]]])
  expect(calls[10]!.headers['webhook-id']).toBe(calls[0]!.headers['webhook-id'])
})

test('410 disables the endpoint and drops its pending deliveries', async ({ expect }) => {
  const caller = await newManager()
  const calls = fakeReceiver(() => 410)
  const { id } = await addEndpoint(caller)
  await announce(env, createFinalJob(caller))
  await waitForDeliveries(caller)
  await announce(env, createFinalJob(caller))
  expect(calls).toHaveLength(1)
  expect(await listStates(caller, id)).toEqual([['refused', [410]]])
  expect(await (await callWebhookApi(caller, 'GET', `/${id}`)).json()).toMatchObject({
    disabled: true,
    disabled_reason: 'gone',
  })
  expect(await (await callWebhookApi(caller, 'PATCH', `/${id}`, { disabled: false })).json()).toMatchObject({
    disabled: false,
  })
})

test('Retry-After delays every delivery of the endpoint, and counts as one failure', async ({ expect }) => {
  const caller = await newManager()
  const calls = fakeReceiver((_, call) =>
    call === 1 ? new Response(null, { status: 429, headers: { 'retry-after': '3600' } }) : 200,
  )
  const { id } = await addEndpoint(caller)
  await announce(env, createFinalJob(caller))
  await vi.waitFor(async () => expect((await receiversOf(caller))[0]!.paused_until).toBeGreaterThan(Date.now()))
  await announce(env, createFinalJob(caller))
  await runDurableObjectAlarm(outboxOf(caller))
  expect(calls).toHaveLength(1)
  expect((await listStates(caller, id)).toSorted()).toEqual([
    ['pending', []],
    ['pending', [429]],
  ])
  const next = await runInDurableObject(outboxOf(caller), (_, { storage }) => findNextAttempt(storage.sql))
  expect(next).toBeGreaterThan(Date.now() + 1_800_000)
  await passTime(caller)
  await waitForDeliveries(caller)
  expect((await listStates(caller, id)).toSorted()).toEqual([
    ['delivered', [200]],
    ['delivered', [429, 200]],
  ])
})

describe('an unusual response', () => {
  test('a redirect is not followed', async ({ expect }) => {
    const caller = await newManager()
    const location = `${RECEIVER}/elsewhere`
    const calls = fakeReceiver((_, call) =>
      call === 1 ? new Response(null, { status: 302, headers: { location } }) : 200,
    )
    const { id } = await addEndpoint(caller)
    await announce(env, createFinalJob(caller))
    await waitForDeliveries(caller)
    expect(calls.map(({ url }) => url)).toEqual([`${RECEIVER}/in`, `${RECEIVER}/in`])
    expect(await listStates(caller, id)).toEqual([['delivered', [302, 200]]])
  })

  test('an endless body is not read', async ({ expect }) => {
    const caller = await newManager()
    let pulled = 0
    const createEndlessResponse = () =>
      new ReadableStream({
        pull: (controller) => {
          pulled += 1
          controller.enqueue(new Uint8Array(1024))
        },
      })
    fakeReceiver(() => new Response(createEndlessResponse(), { status: 200 }))
    const { id } = await addEndpoint(caller)
    await announce(env, createFinalJob(caller))
    await waitForDeliveries(caller)
    expect(await listStates(caller, id)).toEqual([['delivered', [200]]])
    expect(pulled).toBeLessThan(10)
  })

  test.for(['throws', 'never ends'])(
    'a body whose cancellation %s changes nothing: 2xx is delivered',
    async (how, { expect }) => {
      const caller = await newManager()
      const cancel = () =>
        how === 'throws' ? Promise.reject(new Error('the connection was reset')) : new Promise<void>(() => {})
      const calls = fakeReceiver(() => new Response(new ReadableStream({ cancel }), { status: 200 }))
      const { id } = await addEndpoint(caller)
      await announce(env, createFinalJob(caller))
      await waitForDeliveries(caller)
      expect(await listStates(caller, id)).toEqual([['delivered', [200]]])
      expect(calls).toHaveLength(1)
    },
  )

  test('the log distinguishes a failed connection from a timeout', async ({ expect }) => {
    const caller = await newManager()
    fakeReceiver(({ signal }, call) => {
      if (call === 1) throw new TypeError('connect ECONNREFUSED 10.0.0.1')
      if (call === 2) return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
      return 200
    })
    const { id } = await addEndpoint(caller)
    await announce(env, createFinalJob(caller))
    await waitForDeliveries(caller)
    const [delivery] = await deliveriesOf(caller, id)
    expect(delivery!.attempts.map(({ status, error }) => status ?? error)).toEqual(['unreachable', 'timeout', 200])
    expect(JSON.stringify(delivery)).not.toContain('10.0.0.1')
  })
})

test('a webhook with an internal error uses its attempts and delays no other', async ({ expect }) => {
  const caller = await newManager()
  const calls = fakeReceiver()
  const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
  const { id } = await addEndpoint(caller)
  const broken = eventOf(createFinalJob(caller))
  await outboxOf(caller).publish({ ...broken, body: '{"data": {"images": 7' }, null)
  await announce(env, createFinalJob(caller))
  await waitForDeliveries(caller)
  expect(calls).toHaveLength(1)
  const log = await deliveriesOf(caller, id)
  expect(log.find(({ event }) => event === broken.id)).toMatchObject({
    state: 'exhausted',
    attempts: Array(10).fill({ error: 'internal' }),
  })
  expect(logged.mock.calls.join()).toContain(broken.id)
})

test('an address that has become forbidden is neither called nor retried', async ({ expect }) => {
  const caller = await newManager()
  const calls = fakeReceiver()
  await announce(env, createFinalJob(caller, { webhook: 'https://169.254.169.254/latest/meta-data' }))
  await waitForDeliveries(caller)
  expect(calls).toEqual([])
  const [delivery] = await deliveriesOf(caller, 'default')
  expect(delivery).toMatchObject({ state: 'refused', attempts: [{ status: null, error: 'blocked' }] })
})

test('an announcement fails if the outbox cannot set its alarm, and succeeds when it is repeated', async ({
  expect,
}) => {
  const caller = await newManager()
  const calls = fakeReceiver()
  await addEndpoint(caller)
  const event = eventOf(createFinalJob(caller))
  await runInDurableObject(outboxOf(caller), async (outbox, { storage }) => {
    vi.spyOn(storage, 'setAlarm').mockRejectedValueOnce(new Error('storage is overloaded'))
    await expect(outbox.publish(event, null)).rejects.toThrow('overloaded')
  })
  expect(calls).toEqual([])
  await outboxOf(caller).publish(event, null)
  await waitForRequests(calls, 1)
  await waitForDeliveries(caller)
  expect(calls).toHaveLength(1)
})

test('a stale attempt cannot undo a later one, but its success counts', async ({ expect }) => {
  const caller = await newManager()
  const { id, events } = await createIdleEndpoint(caller, 2)
  await runInDurableObject(outboxOf(caller), (_, { storage: { sql } }) => {
    const stateOf = (event: string) => findDelivery(sql, event, id)!.state
    for (const status of [500, 200]) {
      const first = takeAttempt(sql, [], settings)!
      sql.exec('UPDATE deliveries SET leased_until = 0 WHERE event = ?', first.event.id)
      sql.exec('UPDATE receivers SET next_at = 0')
      const second = takeAttempt(sql, [], settings)!
      expect([second.event.id, second.lease]).toEqual([first.event.id, first.lease + 1])
      expect(events).toContain(first.event.id)
      settleAttempt(sql, first, { status, retryAfter: null }, 1, settings)
      expect(stateOf(first.event.id)).toBe(status === 200 ? 'delivered' : 'pending')
      settleAttempt(sql, second, { status: 500, retryAfter: null }, 1, { ...settings, schedule: [60] })
      expect(stateOf(first.event.id)).toBe(status === 200 ? 'delivered' : 'pending')
      expect(findDelivery(sql, first.event.id, id)!.failures).toBe(status === 200 ? 0 : 1)
    }
  })
})

test('a replay during an attempt does not start a concurrent attempt', async ({ expect }) => {
  const caller = await newManager()
  const stuck = createHangingReceiver()
  const calls = fakeReceiver(stuck.answer)
  const { id } = await addEndpoint(caller)
  const event = eventOf(createFinalJob(caller))
  await outboxOf(caller).publish(event, null)
  await waitForRequests(calls, 1)
  expect((await callWebhookApi(caller, 'POST', `/${id}/deliveries/${event.id}/replay`)).status).toBe(202)
  stuck.release()
  await waitForDeliveries(caller)
  expect([calls.length, await listStates(caller, id)]).toEqual([1, [['delivered', [204]]]])
})

test('continuous requests of an account do not postpone the alarm', async ({ expect }) => {
  const caller = await newManager()
  const calls = fakeReceiver(() => new Response(null, { status: 503, headers: { 'retry-after': '3600' } }))
  await addEndpoint(caller)
  const alarmOf = () => runInDurableObject(outboxOf(caller), (_, { storage }) => storage.getAlarm())
  await announce(env, createFinalJob(caller))
  await waitForRequests(calls, 1)
  const first = await vi.waitFor(async () => {
    const alarm = await alarmOf()
    expect(alarm).toBeGreaterThan(Date.now() + 1_800_000)
    return alarm
  })
  await announce(env, createFinalJob(caller))
  expect(await alarmOf()).toBeLessThanOrEqual(first!)
})

test('Retry-After of any length or as a date is respected: failures count, and the schedule ends', async ({
  expect,
}) => {
  const caller = await newManager()
  const { id, events } = await createIdleEndpoint(caller, 1)
  await runInDurableObject(outboxOf(caller), (_, { storage: { sql } }) => {
    const inASecond = new Date(Date.now() + 1000).toUTCString()
    for (const [index, retryAfter] of [null, inASecond, null].entries()) {
      sql.exec('UPDATE deliveries SET due = 0, leased_until = 0')
      sql.exec('UPDATE receivers SET paused_until = 0, next_at = 0')
      const taken = takeAttempt(sql, [], settings)!
      const state = settleAttempt(sql, taken, { status: 503, retryAfter }, 1.5, { ...settings, schedule: [0.0301, 5] })
      expect(state).toBe(index < 2 ? 'pending' : 'exhausted')
      expect(findDelivery(sql, events[0]!, id)).toMatchObject({ failures: index + 1, leased_until: 0 })
    }
  })
})

// Receivers that hang or fail delay only their own deliveries, and no other account or endpoint.
import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { announce } from '../../../edge/jobs/announcement.ts'
import { FAILURES_TO_OPEN } from '../../../edge/webhooks/endpoints/breaker.ts'
import { openMs } from '../../../edge/webhooks/endpoints/receivers.ts'
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
import {
  createHangingReceiver,
  fakeReceiver,
  RECEIVER,
  type ReceivedRequest,
  waitForRequests,
} from '../support/receiver.ts'

afterEach(() => {
  vi.restoreAllMocks()
  env.WEBHOOK_BREAKER_SECONDS = '0'
})

const HANGING = `${RECEIVER}/hangs`
const to = (calls: ReceivedRequest[], url: string) => calls.filter((call) => call.url === url)
const announceMany = async (caller: Caller, count: number, change = {}) => {
  for (let k = 0; k < count; k++) await announce(env, createFinalJob(caller, change))
}

describe('a receiver that hangs', () => {
  test('delays no other account', async () => {
    const [slow, other] = [await newManager(), await newManager()]
    const stuck = createHangingReceiver()
    const calls = fakeReceiver(({ url }) => (url === HANGING ? stuck.answer() : 204))
    await addEndpoint(slow, { url: HANGING })
    await addEndpoint(other)
    await announceMany(slow, 40)
    await waitForRequests(calls, 1)
    await announceMany(other, 3)
    await waitForDeliveries(other)
    expect(to(calls, `${RECEIVER}/in`)).toHaveLength(3)
    expect((await deliveriesOf(slow, (await receiversOf(slow))[0]!.id, '?state=delivered')).length).toBe(0)
    stuck.release()
    await waitForDeliveries(slow)
  })

  test('delays no other endpoint of its account', async () => {
    const caller = await newManager()
    const stuck = createHangingReceiver()
    const calls = fakeReceiver(({ url }) => (url === HANGING ? stuck.answer() : 204))
    await addEndpoint(caller, { url: HANGING })
    const healthy = await addEndpoint(caller, { url: 'https://hooks.octet-customer.com.au/in' })
    await announceMany(caller, 20)
    await vi.waitFor(async () => expect(await deliveriesOf(caller, healthy.id, '?state=delivered')).toHaveLength(20))
    expect(to(calls, HANGING)).toHaveLength(4)
    stuck.release()
    await waitForDeliveries(caller)
    expect(to(calls, HANGING)).toHaveLength(20)
  })

  test('gets one attempt at a time once it has failed', async () => {
    const caller = await newManager()
    let [running, max] = [0, 0]
    const calls = fakeReceiver(async (_, call) => {
      running += 1
      if (call > 4) max = Math.max(max, running)
      await new Promise((resolve) => setTimeout(resolve, 5))
      running -= 1
      return 500
    })
    await addEndpoint(caller)
    await announceMany(caller, 8)
    await waitForRequests(calls, 30)
    await waitForDeliveries(caller)
    expect(max).toBe(1)
  })
})

test('an account has at most six attempts at a time, and four to one host', async () => {
  const caller = await newManager()
  const stuck = createHangingReceiver()
  const calls = fakeReceiver(stuck.answer)
  for (const path of ['a', 'b', 'c']) await addEndpoint(caller, { url: `${RECEIVER}/${path}` })
  await announceMany(caller, 5)
  await waitForRequests(calls, 4)
  for (const host of ['x', 'y', 'z']) await announceMany(caller, 3, { webhook: `${RECEIVER}.${host}.com/in` })
  await waitForRequests(calls, 6)
  // Long enough for any further requests to arrive.
  await new Promise((resolve) => setTimeout(resolve, 100))
  expect([calls.length, calls.filter(({ url }) => url.startsWith(`${RECEIVER}/`)).length]).toEqual([6, 4])
  stuck.release()
  await waitForDeliveries(caller)
})

describe('the circuit breaker of a receiver', () => {
  /** Opens the breaker of a fresh endpoint by failing deliveries. */
  async function openBreaker(events: number, behavior: Parameters<typeof fakeReceiver>[0] = () => 500) {
    env.WEBHOOK_BREAKER_SECONDS = '200'
    const caller = await newManager()
    const calls = fakeReceiver(behavior)
    const { id } = await addEndpoint(caller)
    await announceMany(caller, events)
    await vi.waitFor(async () => expect(await receiversOf(caller)).toMatchObject([{ openings: 1 }]))
    await vi.waitFor(async () => expect(await attemptsOf(caller, id)).toBe(calls.length))
    return { caller, calls, id }
  }
  const attemptsOf = async (caller: Caller, id: string) =>
    (await deliveriesOf(caller, id, '?limit=100')).flatMap(({ attempts }) => attempts).length
  const closeLater = (caller: Caller) =>
    runInDurableObject(outboxOf(caller), async (_, { storage }) => {
      storage.sql.exec('UPDATE receivers SET open_until = 1, next_at = 1')
      await storage.setAlarm(Date.now())
    })

  test('opens after five consecutive failures: deliveries wait without using attempts', async () => {
    const { caller, calls, id } = await openBreaker(12)
    const before = calls.length
    expect(before).toBeGreaterThanOrEqual(FAILURES_TO_OPEN)
    await announceMany(caller, 5)
    await runDurableObjectAlarm(outboxOf(caller))
    expect(calls).toHaveLength(before)
    expect((await receiversOf(caller))[0]!.open_until).toBeGreaterThan(Date.now() + 100_000)
    const pending = await deliveriesOf(caller, id, '?state=pending&limit=100')
    expect(pending).toHaveLength(17)
    for (const { next_attempt } of pending) expect(Date.parse(next_attempt!)).toBeGreaterThan(Date.now() + 100_000)
    expect(pending.flatMap(({ attempts }) => attempts)).toHaveLength(before)
  })

  test('admits one trial after its open time; a failure opens it again, for longer', async () => {
    const { caller, calls } = await openBreaker(12)
    for (const openings of [2, 3]) {
      const before = calls.length
      await closeLater(caller)
      await vi.waitFor(async () => expect(await receiversOf(caller)).toMatchObject([{ openings }]))
      expect(calls).toHaveLength(before + 1)
    }
    expect((await receiversOf(caller))[0]!.open_until).toBeGreaterThan(Date.now() + 500_000)
  })

  test('closes with the first success, and all waiting deliveries are sent', async () => {
    let healthy = false
    const { caller, calls, id } = await openBreaker(12, () => (healthy ? 204 : 500))
    healthy = true
    await closeLater(caller)
    await waitForDeliveries(caller)
    expect(await deliveriesOf(caller, id, '?state=delivered&limit=100')).toHaveLength(12)
    expect(await receiversOf(caller)).toMatchObject([{ failures: 0, openings: 0, open_until: 0 }])
    expect(new Set(calls.map(({ headers }) => headers['webhook-id'])).size).toBe(12)
  })

  test('closes when its owner changes the endpoint', async () => {
    const { caller, id } = await openBreaker(6, ({ url }) => (url === `${RECEIVER}/in` ? 500 : 204))
    await callWebhookApi(caller, 'PATCH', `/${id}`, { url: `${RECEIVER}/repaired` })
    await waitForDeliveries(caller)
    expect(await deliveriesOf(caller, id, '?state=delivered')).toHaveLength(6)
  })

  test('opens for twice as long each time, up to ten minutes', () => {
    expect([1, 2, 3, 5, 6, 50].map((openings) => openMs(openings, 30_000) / 60_000)).toEqual([0.5, 1, 2, 8, 10, 10])
  })

  test('gives up deliveries after their lifetime, with a log line', async () => {
    const { caller, id } = await openBreaker(12)
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    await runInDurableObject(outboxOf(caller), async (outbox, { storage }) => {
      storage.sql.exec('UPDATE deliveries SET started = started - 5 * 86400000')
      await outbox.alarm()
    })
    expect(await deliveriesOf(caller, id, '?state=exhausted&limit=100')).toHaveLength(12)
    expect(logged.mock.calls.join()).toContain('webhooks were given up')
    const since = new Date(0).toISOString()
    expect(await (await callWebhookApi(caller, 'POST', `/${id}/replay`, { since })).json()).toMatchObject({ count: 12 })
    await vi.waitFor(async () => expect(await receiversOf(caller)).toMatchObject([{ openings: 2 }]))
  })

  test('is kept through a reset of the object', async () => {
    const { caller, calls } = await openBreaker(12)
    const before = calls.length
    await runInDurableObject(outboxOf(caller), (_, state) => state.abort('reset')).catch(() => {})
    await announceMany(caller, 3)
    await runDurableObjectAlarm(outboxOf(caller))
    expect([calls.length, (await receiversOf(caller))[0]!.openings]).toEqual([before, 1])
    await passTime(caller)
    await waitForRequests(calls, before + 1)
  })
})

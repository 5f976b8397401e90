// Receivers that fail, ask for quiet, have gone, or lead elsewhere; a queue that loses messages. What is told arrives, or is known not to.
import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { Webhook } from 'standardwebhooks'
import { afterEach, describe, test, vi } from 'vitest'
import { settleAttempt, takeDelivery } from '../../edge/webhook-attempts.ts'
import { findDelivery, nextDue, overdue } from '../../edge/webhook-deliveries.ts'
import { pauseEndpoint } from '../../edge/webhook-endpoints.ts'
import { attemptDelivery, type DeliveryRef, deliverWebhooks } from '../../edge/webhook-queue.ts'
import { judge, readSchedule } from '../../edge/webhook-schedule.ts'
import { announce, eventOf } from '../../edge/webhooks.ts'
import type { Caller } from './client.ts'
import {
  addEndpoint,
  api,
  arrived,
  deliveriesOf,
  expireLeases,
  finalJob,
  newManager,
  outboxOf,
  RECEIVER,
  receiver,
  settled,
} from './receiver.ts'

afterEach(() => vi.restoreAllMocks())

const states = async (caller: Caller, endpoint: string) =>
  (await deliveriesOf(caller, endpoint)).map(({ state, attempts }) => [state, attempts.map(({ status }) => status)])

/** Keeps messages out of the queue; the tests that use it wake deliveries themselves. */
function stopQueue() {
  vi.spyOn(env.WEBHOOKS, 'sendBatch').mockResolvedValue({ metadata: { metrics: {} } } as never)
}

test('a receiver that fails half of the time gets everything, each delivery signed and under one id', async ({
  expect,
}) => {
  const caller = await newManager()
  const tried = new Map<string, number>()
  const calls = receiver(({ headers: { 'webhook-id': message = '' } }) => {
    const failures = tried.get(message) ?? 0
    tried.set(message, failures + 1)
    // No two messages alike: some are taken at once, some after three failures.
    return failures < Number.parseInt(message.at(-1)!, 16) % 4 ? [500, 404, 301][failures]! : 200
  })
  const { id, secret } = await addEndpoint(caller)
  const jobs = Array.from({ length: 40 }, () => finalJob(caller))
  await Promise.all(jobs.map((job) => announce(env, job)))
  await settled(caller)
  for (const { body, headers } of calls) new Webhook(secret).verify(body, headers)
  const delivered = await outboxOf(caller).deliveries(id, { limit: 100, state: 'delivered' })
  expect(new Set(delivered.map(({ event }) => event))).toEqual(new Set(jobs.map((job) => eventOf(job).id)))
  for (const { attempts } of delivered) {
    expect(attempts.slice(0, -1).every(({ status }) => status !== 200)).toBe(true)
    expect(attempts.at(-1)!.status).toBe(200)
  }
  expect(calls).toHaveLength(delivered.flatMap(({ attempts }) => attempts).length)
})

test('after ten attempts a delivery is given up: the dead-letter queue hears of it, and it can be replayed', async ({
  expect,
}) => {
  const caller = await newManager()
  const dead = vi.spyOn(console, 'error')
  let healthy = false
  const calls = receiver(() => (healthy ? 200 : 500))
  const { id } = await addEndpoint(caller)
  const job = finalJob(caller)
  await announce(env, job)
  await settled(caller)
  expect(await states(caller, id)).toEqual([['exhausted', Array(10).fill(500)]])
  expect(new Set(calls.map(({ headers }) => headers['webhook-id'])).size).toBe(1)
  await vi.waitFor(() => expect(dead.mock.calls.flat().join()).toContain('a webhook was given up'), { timeout: 10_000 })
  healthy = true
  const replay = await api(caller, 'POST', `/${id}/deliveries/${eventOf(job).id}/replay`)
  expect(replay.status).toBe(202)
  await arrived(calls, 11)
  await settled(caller)
  expect(await states(caller, id)).toEqual([['delivered', [...Array(10).fill(500), 200]]])
  expect(calls[10]!.headers['webhook-id']).toBe(calls[0]!.headers['webhook-id'])
})

test('410 disables the endpoint and drops what waits for it', async ({ expect }) => {
  const caller = await newManager()
  const calls = receiver(() => 410)
  const { id } = await addEndpoint(caller)
  await announce(env, finalJob(caller))
  await settled(caller)
  await announce(env, finalJob(caller))
  expect(calls).toHaveLength(1)
  expect(await states(caller, id)).toEqual([['refused', [410]]])
  expect(await (await api(caller, 'GET', `/${id}`)).json()).toMatchObject({ disabled: true, disabled_reason: 'gone' })
  expect(await (await api(caller, 'PATCH', `/${id}`, { disabled: false })).json()).toMatchObject({ disabled: false })
})

test('Retry-After holds back every delivery of the endpoint, and counts as one failure', async ({ expect }) => {
  const caller = await newManager()
  stopQueue()
  const calls = receiver((_, call) =>
    call === 1 ? new Response(null, { status: 429, headers: { 'retry-after': '120' } }) : 200,
  )
  const { id } = await addEndpoint(caller)
  const [first, second] = [finalJob(caller), finalJob(caller)]
  for (const job of [first, second]) await announce(env, job)
  const attempt = (job: typeof first) =>
    attemptDelivery(env, { account: caller.account, event: eventOf(job).id, endpoint: id })
  const held = { kind: 'wait', seconds: expect.closeTo(120, -1), lease: expect.any(Number) }
  expect([await attempt(first), await attempt(first), await attempt(second)]).toEqual([held, held, held])
  expect(calls).toHaveLength(1)
  await expireLeases(caller)
  expect([await attempt(second), await attempt(first)]).toEqual([{ kind: 'done' }, { kind: 'done' }])
  expect((await states(caller, id)).toSorted()).toEqual([
    ['delivered', [200]],
    ['delivered', [429, 200]],
  ])
})

describe('an answer that is no answer', () => {
  test('a redirect is not followed', async ({ expect }) => {
    const caller = await newManager()
    const location = `${RECEIVER}/elsewhere`
    const calls = receiver((_, call) => (call === 1 ? new Response(null, { status: 302, headers: { location } }) : 200))
    const { id } = await addEndpoint(caller)
    await announce(env, finalJob(caller))
    await settled(caller)
    expect(calls.map(({ url }) => url)).toEqual([`${RECEIVER}/in`, `${RECEIVER}/in`])
    expect(await states(caller, id)).toEqual([['delivered', [302, 200]]])
  })

  test('a body without end is not read', async ({ expect }) => {
    const caller = await newManager()
    let pulled = 0
    const endless = () =>
      new ReadableStream({
        pull: (controller) => {
          pulled += 1
          controller.enqueue(new Uint8Array(1024))
        },
      })
    receiver(() => new Response(endless(), { status: 200 }))
    const { id } = await addEndpoint(caller)
    await announce(env, finalJob(caller))
    await settled(caller)
    expect(await states(caller, id)).toEqual([['delivered', [200]]])
    expect(pulled).toBeLessThan(10)
  })

  test('no connection and no answer in time are told apart in the log', async ({ expect }) => {
    const caller = await newManager()
    receiver(({ signal }, call) => {
      if (call === 1) throw new TypeError('connect ECONNREFUSED 10.0.0.1')
      if (call === 2) return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
      return 200
    })
    const { id } = await addEndpoint(caller)
    await announce(env, finalJob(caller))
    await settled(caller)
    const [delivery] = await deliveriesOf(caller, id)
    expect(delivery!.attempts.map(({ status, error }) => status ?? error)).toEqual(['unreachable', 'timeout', 200])
    expect(JSON.stringify(delivery)).not.toContain('10.0.0.1')
  })
})

test('an address that became forbidden is not called, and not tried again', async ({ expect }) => {
  const caller = await newManager()
  const calls = receiver()
  await announce(env, finalJob(caller, { webhook: 'https://169.254.169.254/latest/meta-data' }))
  await settled(caller)
  expect(calls).toEqual([])
  const [delivery] = await deliveriesOf(caller, 'default')
  expect(delivery).toMatchObject({ state: 'refused', attempts: [{ status: null, error: 'blocked' }] })
})

test('what the queue lost, the alarm of the outbox puts into it again', async ({ expect }) => {
  const caller = await newManager()
  const calls = receiver()
  const { id } = await addEndpoint(caller)
  stopQueue()
  await announce(env, finalJob(caller))
  vi.restoreAllMocks()
  const again = receiver()
  await expireLeases(caller)
  expect(await runDurableObjectAlarm(outboxOf(caller))).toBe(true)
  await arrived(again, 1)
  await settled(caller)
  expect([calls.length, await states(caller, id)]).toEqual([0, [['delivered', [204]]]])
})

test('what waits because its receiver asked for quiet is not put into the queue again and again', async ({
  expect,
}) => {
  const caller = await newManager()
  const { id } = await addEndpoint(caller)
  stopQueue()
  await announce(env, finalJob(caller))
  await runInDurableObject(outboxOf(caller), (_, { storage: { sql } }) => {
    const now = Date.now()
    sql.exec('UPDATE deliveries SET due = 0')
    expect(overdue(sql, now, 10)).toHaveLength(1)
    pauseEndpoint(sql, id, now + 3_600_000)
    expect([overdue(sql, now, 10), nextDue(sql)]).toEqual([[], now + 3_600_000])
  })
})

test('of many messages for one delivery a single one goes on after its next attempt', async ({ expect }) => {
  const caller = await newManager()
  stopQueue()
  const calls = receiver(() => new Response(null, { status: 429, headers: { 'retry-after': '3600' } }))
  const { id } = await addEndpoint(caller)
  const job = finalJob(caller)
  await announce(env, job)
  const sent: DeliveryRef[] = []
  vi.spyOn(env.WEBHOOKS, 'send').mockImplementation(async (body) => {
    sent.push(body as DeliveryRef)
    return { metadata: { metrics: {} } } as never
  })
  const look = (bodies: DeliveryRef[], attempts = 1) => {
    const messages = bodies.map((body) => ({ body, attempts, ack: () => {}, retry: () => expect.unreachable() }))
    return deliverWebhooks({ messages } as never, env)
  }
  await look(Array(5).fill({ account: caller.account, event: eventOf(job).id, endpoint: id }))
  expect([calls.length, sent.length]).toEqual([1, 5])
  await expireLeases(caller)
  const doubled = sent.splice(0)
  await look(doubled)
  expect([calls.length, sent.length]).toEqual([2, 1])
  // One that comes again may be the one that made the attempt: it goes on.
  await look([doubled[0]!], 2)
  expect([calls.length, sent.length]).toEqual([2, 2])
})

test('a queue that does not take messages fails the announcement, which is then made again', async ({ expect }) => {
  const caller = await newManager()
  const calls = receiver()
  await addEndpoint(caller)
  const job = finalJob(caller)
  const queue = vi.spyOn(env.WEBHOOKS, 'sendBatch').mockRejectedValue(new Error('Queue is overloaded'))
  await expect(announce(env, job)).rejects.toThrow('overloaded')
  queue.mockRestore()
  await announce(env, job)
  await arrived(calls, 1)
  await settled(caller)
  expect(calls).toHaveLength(1)
})

test('a stale attempt cannot undo a later one, but its success counts', async ({ expect }) => {
  const caller = await newManager()
  stopQueue()
  const { id } = await addEndpoint(caller)
  const [lost, won] = [finalJob(caller), finalJob(caller)]
  for (const job of [lost, won]) await announce(env, job)
  const outbox = outboxOf(caller)
  for (const [job, answer] of [
    [lost, 500],
    [won, 200],
  ] as const) {
    const { id: event } = eventOf(job)
    const first = await outbox.take(event, id)
    await expireLeases(caller)
    const second = await outbox.take(event, id)
    if (first.kind !== 'send' || second.kind !== 'send') throw new Error('both must be taken')
    expect(await outbox.record(event, id, first.lease, { status: answer, retryAfter: null }, 1)).toEqual({
      kind: 'done',
    })
    const delivered = answer === 200
    expect((await outbox.deliveries(id, { limit: 10 })).find((each) => each.event === event)?.state).toBe(
      delivered ? 'delivered' : 'pending',
    )
    await outbox.record(event, id, second.lease, { status: 500, retryAfter: null }, 1)
    expect((await outbox.deliveries(id, { limit: 10 })).find((each) => each.event === event)?.state).toBe(
      delivered ? 'delivered' : 'pending',
    )
  }
})

test('events are forgotten after 30 days, with their log', async ({ expect }) => {
  const caller = await newManager()
  receiver()
  const { id } = await addEndpoint(caller)
  await announce(env, finalJob(caller))
  await settled(caller)
  await runInDurableObject(outboxOf(caller), (_, { storage }) => {
    storage.sql.exec('UPDATE events SET created = created - 31 * 86400000')
  })
  await runDurableObjectAlarm(outboxOf(caller))
  expect(await deliveriesOf(caller, id)).toEqual([])
  const rows = await runInDurableObject(outboxOf(caller), (_, { storage }) =>
    ['events', 'deliveries', 'attempts'].map(
      (table) => storage.sql.exec<{ n: number }>(`SELECT count(*) AS n FROM ${table}`).one().n,
    ),
  )
  expect(rows).toEqual([0, 0, 0])
})

test('an account that is never quiet does not put the alarm off', async ({ expect }) => {
  const caller = await newManager()
  stopQueue()
  await addEndpoint(caller)
  const alarmOf = () => runInDurableObject(outboxOf(caller), (_, { storage }) => storage.getAlarm())
  await announce(env, finalJob(caller))
  const first = await alarmOf()
  await expireLeases(caller)
  await new Promise((resolve) => setTimeout(resolve, 5))
  await announce(env, finalJob(caller))
  expect(first).not.toBeNull()
  expect(await alarmOf()).toBe(first)
})

test('waits of any length and dates are kept: failures count, and the schedule ends', async ({ expect }) => {
  const caller = await newManager()
  const { id } = await addEndpoint(caller)
  stopQueue()
  const job = finalJob(caller)
  await announce(env, job)
  const event = eventOf(job).id
  await runInDurableObject(outboxOf(caller), (_, { storage: { sql } }) => {
    const schedule = readSchedule('0.0301,5')
    const inASecond = new Date(Date.now() + 1000).toUTCString()
    const answers = [null, inASecond].map((retryAfter) => judge({ status: 503, retryAfter }, Date.now() - 0.3))
    for (const [index, verdict] of answers.entries()) {
      sql.exec('UPDATE deliveries SET due = 0, leased_until = 0')
      sql.exec('UPDATE endpoints SET paused_until = 0')
      const taken = takeDelivery(sql, event, id, 60_000)
      if (taken.kind !== 'send') throw new Error(taken.kind)
      expect(settleAttempt(sql, event, id, taken.lease, verdict, schedule).kind).toBe('wait')
      expect(findDelivery(sql, event, id)).toMatchObject({ state: 'pending', failures: index + 1, leased_until: 0 })
    }
  })
})

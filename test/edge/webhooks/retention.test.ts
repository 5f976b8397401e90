// Retention, export and deletion of an account's webhooks.

import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { test, vi } from 'vitest'
import { announce, eventOf } from '../../../edge/jobs/announcement.ts'
import { WebhookDO } from '../../../edge/webhooks/webhook-object.ts'
import type { Caller } from '../support/client.ts'
import { createEnvWith } from '../support/config.ts'
import { createFinalJob } from '../support/jobs.ts'
import {
  addEndpoint,
  callWebhookApi,
  deliveriesOf,
  outboxOf,
  testWithReceiver,
  waitForDeliveries,
} from '../support/manager.ts'
import {
  createHangingReceiver,
  fakeReceiver,
  RECEIVER,
  type ReceivedRequest,
  waitForRequests,
} from '../support/receiver.ts'

let caller: Caller
let calls: ReceivedRequest[]
testWithReceiver((...fresh) => {
  ;[caller, calls] = fresh
})

const TABLES = ['endpoints', 'signing_keys', 'events', 'deliveries', 'attempts', 'receivers', 'replay_bucket']

/** The number of rows of each table of the caller's outbox. */
const rowsOf = (tables = TABLES) =>
  runInDurableObject(outboxOf(caller), (_, { storage }) =>
    tables.map((table) => storage.sql.exec<{ n: number }>(`SELECT count(*) AS n FROM ${table}`).one().n),
  )

test('events are deleted after 30 days, with their log', async ({ expect }) => {
  const { id } = await addEndpoint(caller)
  await announce(env, createFinalJob(caller))
  await waitForDeliveries(caller)
  await runInDurableObject(outboxOf(caller), (_, { storage }) => {
    storage.sql.exec('UPDATE events SET created = created - 31 * 86400000')
  })
  await runDurableObjectAlarm(outboxOf(caller))
  expect(await deliveriesOf(caller, id)).toEqual([])
  expect(await rowsOf(['events', 'deliveries', 'attempts'])).toEqual([0, 0, 0])
})

test('the export has every event and endpoint, page by page, and no secret', async ({ expect }) => {
  const { id, secret } = await addEndpoint(caller)
  const jobs = Array.from({ length: 130 }, (_, k) =>
    createFinalJob(caller, { webhook: k === 0 ? `${RECEIVER}/mine` : null }),
  )
  await Promise.all(jobs.map((job) => announce(env, job)))
  await waitForDeliveries(caller)
  const pages: Awaited<ReturnType<WebhookDO['exportAll']>>[] = []
  for (let after: number | null = null; pages.length === 0 || after !== null; ) {
    const page: (typeof pages)[number] = await outboxOf(caller).exportAll(after)
    pages.push(page)
    after = page.next
  }
  const text = JSON.stringify(pages)
  const { key } = (await (await callWebhookApi(caller, 'GET', '/default/secret')).json()) as { key: string }
  // Not `not.toContain`, which would print the whole export.
  expect([secret, key, 'results/30d'].filter((hidden) => text.includes(hidden))).toEqual([])
  expect(pages.map(({ endpoints, events }) => [endpoints.length, events.length])).toEqual([
    [1, 100],
    [0, 30],
  ])
  const events = pages.flatMap((page) => page.events)
  expect(new Set(events.map((event) => event.id))).toEqual(new Set(jobs.map((job) => eventOf(job).id)))
  expect(events.find((event) => event.id === eventOf(jobs[0]!).id)).toMatchObject({
    type: 'job.succeeded',
    data: { id: jobs[0]!.id, images: [{ sha256: 'a'.repeat(64) }] },
    deliveries: [
      { endpoint: 'default', url: `${RECEIVER}/mine`, state: 'delivered', attempts: [{ status: 204 }] },
      { endpoint: id, state: 'delivered' },
    ],
  })
})

test('a deleted job leaves no data, and its pending deliveries are not sent', async ({ expect }) => {
  vi.restoreAllMocks()
  const stuck = createHangingReceiver(500)
  calls = fakeReceiver((_, call) => (call === 1 ? stuck.answer() : 204))
  const { id } = await addEndpoint(caller)
  const [gone, kept] = [createFinalJob(caller), createFinalJob(caller)]
  await announce(env, gone)
  await waitForRequests(calls, 1)
  await outboxOf(caller).forgetJob(gone.id)
  stuck.release()
  await announce(env, kept)
  await waitForDeliveries(caller)
  await vi.waitFor(async () => expect(await rowsOf(['events', 'deliveries', 'attempts'])).toEqual([1, 1, 1]))
  expect((await deliveriesOf(caller, id)).map(({ event }) => event)).toEqual([eventOf(kept).id])
  expect(calls.filter(({ headers }) => headers['webhook-id'] === eventOf(gone).id)).toHaveLength(1)
})

test('an erased account has no rows and no alarm, its attempts are aborted, and it can be used again', async ({
  expect,
}) => {
  vi.restoreAllMocks()
  const aborted = vi.fn()
  calls = fakeReceiver(({ signal }) => {
    const { promise, reject } = Promise.withResolvers<never>()
    signal.addEventListener('abort', () => {
      aborted()
      reject(signal.reason)
    })
    return promise
  })
  await addEndpoint(caller)
  for (let k = 0; k < 10; k++) await announce(env, createFinalJob(caller, { webhook: `${RECEIVER}/mine` }))
  await waitForRequests(calls, 4)
  await outboxOf(caller).eraseAccount()
  expect(await rowsOf()).toEqual(TABLES.map(() => 0))
  expect(aborted).toHaveBeenCalled()
  const before = calls.length
  await vi.waitFor(async () =>
    expect(await runInDurableObject(outboxOf(caller), (_, { storage }) => storage.getAlarm())).toBeNull(),
  )
  expect([calls.length, await rowsOf()]).toEqual([before, TABLES.map(() => 0)])
  vi.restoreAllMocks()
  calls = fakeReceiver()
  await addEndpoint(caller)
  await announce(env, createFinalJob(caller))
  await waitForDeliveries(caller)
  expect(calls).toHaveLength(1)
})

test('pending deliveries of an older version are delivered', async ({ expect }) => {
  const { id } = await addEndpoint(caller)
  const [own, named, dropped] = [createFinalJob(caller), createFinalJob(caller), createFinalJob(caller)].map((job) =>
    eventOf(job),
  )
  await runInDurableObject(outboxOf(caller), async (_, state) => {
    const { sql } = state.storage
    sql.exec(`DROP TABLE deliveries; DROP TABLE receivers;
      CREATE TABLE deliveries (
        event TEXT NOT NULL, endpoint TEXT NOT NULL, url TEXT, state TEXT NOT NULL, failures INTEGER NOT NULL, due INTEGER NOT NULL,
        lease INTEGER NOT NULL, leased_until INTEGER NOT NULL, PRIMARY KEY (event, endpoint)) STRICT;
      CREATE INDEX deliveries_state ON deliveries (state, due);
      ALTER TABLE endpoints ADD COLUMN paused_until INTEGER NOT NULL DEFAULT 0`)
    for (const { id, type, body, origin } of [own!, named!, dropped!])
      sql.exec('INSERT INTO events VALUES (?, ?, ?, ?, ?)', id, type, body, origin, Date.now())
    const insert = "INSERT INTO deliveries VALUES (?, ?, ?, 'pending', 2, 0, 3, 0)"
    sql.exec(insert, own!.id, id, null)
    sql.exec(insert, named!.id, 'default', `${RECEIVER}/mine`)
    sql.exec(insert, dropped!.id, 'wh_deleted', null)
    await state.storage.setAlarm(Date.now() + 500)
    await state.storage.sync()
    state.abort('a new version is deployed')
  }).catch(() => {})
  await waitForDeliveries(caller)
  const sent = calls.map(({ url, headers }) => [url, headers['webhook-id']])
  expect(sent.toSorted()).toEqual([
    [`${RECEIVER}/in`, own!.id],
    [`${RECEIVER}/mine`, named!.id],
  ])
  expect(await outboxOf(caller).deliveriesOf(dropped!.id)).toMatchObject([{ state: 'dropped' }])
})

test('a malformed variable is logged, and pending deliveries continue with the defaults', async ({ expect }) => {
  await addEndpoint(caller)
  const error = vi.spyOn(console, 'error').mockImplementation(() => {})
  await runInDurableObject(outboxOf(caller), async (_, state) => {
    const outbox = new WebhookDO(state, createEnvWith({ WEBHOOK_TIMEOUT_SECONDS: 'soon' }))
    await outbox.publish(eventOf(createFinalJob(caller)), null)
    await outbox.alarm()
  })
  expect(calls).toHaveLength(1)
  expect(error.mock.calls.join()).toContain('WEBHOOK_TIMEOUT_SECONDS')
})

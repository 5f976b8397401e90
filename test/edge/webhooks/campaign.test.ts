// A campaign of concurrent faults: receivers that fail, hang or request a pause, resets of the outbox at any point, and duplicate
// announcements and alarms.
import { abortAllDurableObjects, runDurableObjectAlarm } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { Webhook } from 'standardwebhooks'
import { afterEach, test, vi } from 'vitest'
import { announce, eventOf } from '../../../edge/jobs/announcement.ts'
import type { JobRecord } from '../../../edge/jobs/record.ts'
import type { Caller } from '../support/client.ts'
import { createFinalJob } from '../support/jobs.ts'
import { addEndpoint, callWebhookApi, newManager, outboxOf, passTime } from '../support/manager.ts'
import { fakeReceiver, RECEIVER, type ReceivedRequest } from '../support/receiver.ts'

afterEach(() => vi.restoreAllMocks())

const JOBS = 60
const ROUNDS = 40
const ROUND_MS = 25
/** A delivery that failed ten times would be given up. */
const MAX_FAILURES = 9
const [OWN, SHARED] = [`${RECEIVER}/in`, `${RECEIVER}.au/named`]

/** mulberry32: the same faults in every run. */
function randomOf(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

/** Announces at a random time until it succeeds, as the job's alarm does, and sometimes once more. Returns the number of failures. */
async function announceAtLast(job: JobRecord, random: () => number): Promise<number> {
  await sleep(random() * ROUNDS * ROUND_MS)
  for (let failures = 0; ; failures++) {
    try {
      await announce(env, job)
      if (random() < 0.2) await announce(env, job)
      return failures
    } catch {
      await sleep(5)
    }
  }
}

/** Fails for half of the requests, in every possible way, and counts its concurrent requests. */
function createUnreliableReceiver(random: () => number) {
  const got = new Map<string, ReceivedRequest[]>()
  const load = { now: 0, max: 0 }
  const calls = fakeReceiver(async (received) => {
    const message = `${received.url} ${received.headers['webhook-id']}`
    got.set(message, [...(got.get(message) ?? []), received])
    load.now += 1
    load.max = Math.max(load.max, load.now)
    await sleep(random() * 5)
    load.now -= 1
    const fate = random()
    if (fate > 0.5 || got.get(message)!.length >= MAX_FAILURES) return 200
    if (fate < 0.1) throw new TypeError('the connection was reset')
    if (fate < 0.15) return new Response(null, { status: 429, headers: { 'retry-after': '60' } })
    if (fate < 0.2)
      return new Promise((_, reject) => received.signal.addEventListener('abort', () => reject(received.signal.reason)))
    return fate < 0.3 ? 302 : 500
  })
  return { got, calls, load }
}

const pendingOf = async (caller: Caller, endpoints: string[]) => {
  try {
    const pending = endpoints.map((id) => outboxOf(caller).deliveries(id, { limit: JOBS, state: 'pending' }))
    return (await Promise.all(pending)).flat().length
  } catch {
    return 1
  }
}

/** Advances the time and starts an alarm, even while another one runs. */
async function pass(caller: Caller): Promise<void> {
  await passTime(caller)
  await runDurableObjectAlarm(outboxOf(caller))
  await sleep(ROUND_MS)
}

test('every event arrives at each address under one id, correctly signed, within the limit of concurrent deliveries', async ({
  expect,
}) => {
  const caller = await newManager()
  const random = randomOf(4)
  const { got, calls, load } = createUnreliableReceiver(random)
  const { id, secret } = await addEndpoint(caller, { url: OWN })
  const { key } = (await (await callWebhookApi(caller, 'GET', '/default/secret')).json()) as { key: string }
  // A third of the requests name a URL of their own, another third the registered one.
  const jobs = Array.from({ length: JOBS }, (_, k) => createFinalJob(caller, { webhook: [null, SHARED, OWN][k % 3]! }))
  const announcing = Promise.all(jobs.map((job) => announceAtLast(job, random)))
  let aborts = 0
  for (let round = 0; round < ROUNDS; round++) {
    if (random() < 0.5) {
      aborts += 1
      await abortAllDurableObjects()
      load.now = 0
    }
    await pass(caller).catch(() => {})
  }
  const failures = (await announcing).reduce((sum, each) => sum + each, 0)
  for (let round = 0; (await pendingOf(caller, [id, 'default'])) > 0; round++) {
    if (round === 200) throw new Error('deliveries are stuck')
    await pass(caller).catch(() => {})
  }
  for (const { url, body, headers } of calls) new Webhook(url === OWN ? secret : key).verify(body, headers)
  const log = await outboxOf(caller).deliveries(id, { limit: JOBS })
  expect(log.map(({ state }) => state)).toEqual(Array(JOBS).fill('delivered'))
  const expected = jobs.flatMap((job, k) => {
    const event = eventOf(job).id
    return k % 3 === 1 ? [`${OWN} ${event}`, `${SHARED} ${event}`] : [`${OWN} ${event}`]
  })
  expect(new Set(got.keys())).toEqual(new Set(expected))
  expect(load.max).toBeLessThanOrEqual(6)
  console.info({ jobs: JOBS, requests: calls.length, aborts, failures, max: load.max })
})

// Everything at once: a receiver that fails half of the time, an outbox that dies at any line, messages that come twice or not at all.
import { abortAllDurableObjects, runDurableObjectAlarm } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { Webhook } from 'standardwebhooks'
import { afterEach, test, vi } from 'vitest'
import type { JobRecord } from '../../edge/job-record.ts'
import { announce, eventOf } from '../../edge/webhooks.ts'
import type { Caller } from './client.ts'
import { addEndpoint, expireLeases, finalJob, newManager, outboxOf, type Received, receiver } from './receiver.ts'

afterEach(() => vi.restoreAllMocks())

const JOBS = 60
const ROUNDS = 40
/** A message that failed ten times would be given up. */
const MOST_FAILURES = 9

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

/** Announces until it worked, as JobDO's watchdog does. Returns how often it failed. */
async function announceAtLast(job: JobRecord): Promise<number> {
  for (let failures = 0; ; failures++) {
    try {
      await announce(env, job)
      return failures
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }
}

/** A queue that takes a message, takes it and loses it, takes it twice, or refuses. */
function unreliableQueue(random: () => number): { lost: number; doubled: number; refused: number } {
  const counts = { lost: 0, doubled: 0, refused: 0 }
  const send = env.WEBHOOKS.sendBatch.bind(env.WEBHOOKS)
  vi.spyOn(env.WEBHOOKS, 'sendBatch').mockImplementation(async (messages) => {
    const fate = random()
    if (fate < 0.1) {
      counts.refused += 1
      throw new Error('Queue is overloaded')
    }
    if (fate < 0.2) {
      counts.lost += 1
      return { metadata: { metrics: { backlogCount: 0, backlogBytes: 0 } } }
    }
    if (fate < 0.3) {
      counts.doubled += 1
      await send([...messages])
    }
    return send(messages)
  })
  return counts
}

const pending = (caller: Caller, endpoint: string) =>
  outboxOf(caller)
    .deliveries(endpoint, { limit: JOBS, state: 'pending' })
    .catch(() => ['the outbox restarts'])

/** Time passes: what may be tried again is, and the outbox makes good for the queue. */
async function pass(caller: Caller): Promise<void> {
  await expireLeases(caller)
  await runDurableObjectAlarm(outboxOf(caller))
  await new Promise((resolve) => setTimeout(resolve, 25))
}

test('every event arrives, under one id each, correctly signed', async ({ expect }) => {
  const caller = await newManager()
  const random = randomOf(4)
  const queue = unreliableQueue(random)
  const got = new Map<string, Received[]>()
  const calls = receiver((received) => {
    const id = received.headers['webhook-id']!
    got.set(id, [...(got.get(id) ?? []), received])
    return random() < 0.5 && got.get(id)!.length < MOST_FAILURES ? 500 : 200
  })
  const { id, secret } = await addEndpoint(caller)
  const jobs = Array.from({ length: JOBS }, () => finalJob(caller))
  const announcing = Promise.all(jobs.map(announceAtLast))
  let aborts = 0
  for (let round = 0; round < ROUNDS; round++) {
    if (random() < 0.5) {
      aborts += 1
      await abortAllDurableObjects()
    }
    await pass(caller).catch(() => {})
  }
  const failures = (await announcing).reduce((sum, each) => sum + each, 0)
  for (let round = 0; (await pending(caller, id)).length > 0; round++) {
    if (round === 200) throw new Error('deliveries are stuck')
    await pass(caller).catch(() => {})
  }
  for (const { body, headers } of calls) new Webhook(secret).verify(body, headers)
  const log = await outboxOf(caller).deliveries(id, { limit: JOBS })
  expect(log.map(({ state }) => state)).toEqual(Array(JOBS).fill('delivered'))
  expect(new Set(got.keys())).toEqual(new Set(jobs.map((job) => eventOf(job).id)))
  console.info({ jobs: JOBS, requests: calls.length, aborts, failures, ...queue })
})

// SlotQueue: which job gets a free slot of an endpoint.
import fc from 'fast-check'
import { describe, test } from 'vitest'
import { readSlots, SlotQueue } from '../../edge/slot-queue.ts'

const LEASE_MS = 30_000

/** A queue in which each of `jobs` (id → account) waits since time 0. */
function queueOf(jobs: Record<string, string>): SlotQueue {
  const queue = new SlotQueue(LEASE_MS)
  for (const [job, account] of Object.entries(jobs)) queue.enter(job, account, 0)
  return queue
}

test('a job that arrives after a flood gets the next slot', ({ expect }) => {
  const queue = queueOf({ flood1: 'flood', flood2: 'flood', flood3: 'flood' })
  expect(queue.grant(1, 0)).toEqual(['flood1'])
  queue.enter('other', 'honest', 100)
  expect(queue.grant(1, 100)).toEqual([])
  queue.leave('flood1', 400)
  expect(queue.grant(1, 400)).toEqual(['other'])
  queue.leave('other', 800)
  expect(queue.grant(1, 800)).toEqual(['flood2'])
})

test('accounts without usage alternate, each with its oldest job first', ({ expect }) => {
  const queue = queueOf({ a1: 'a', a2: 'a', a3: 'a', b1: 'b', b2: 'b' })
  expect(queue.grant(4, 0)).toEqual(['a1', 'b1', 'a2', 'b2'])
})

test('usage is forgotten over minutes, so that an old burst does not count against an account', ({ expect }) => {
  const queue = queueOf({ burst: 'a' })
  queue.grant(1, 0)
  queue.leave('burst', 20_000)
  const muchLater = 20_000 + 10 * 60_000
  queue.enter('b1', 'b', muchLater)
  queue.grant(1, muchLater)
  queue.enter('b2', 'b', muchLater)
  queue.enter('a2', 'a', muchLater)
  queue.leave('b1', muchLater + 1_000)
  expect(queue.grant(1, muchLater + 1_000)).toEqual(['a2'])
})

describe('an entry', () => {
  test('keeps its place when it is renewed', ({ expect }) => {
    const queue = queueOf({ first: 'a', second: 'b' })
    queue.enter('first', 'a', 10)
    expect(queue.grant(1, 10)).toEqual(['first'])
    queue.enter('first', 'a', 20)
    expect([queue.holds('first'), queue.grant(1, 20)]).toEqual([true, []])
  })

  test('expires without renewals, whether it waits or holds a slot', ({ expect }) => {
    const queue = queueOf({ holds: 'a', silent: 'b', renewed: 'c' })
    queue.grant(1, 0)
    queue.enter('renewed', 'c', LEASE_MS)
    expect(queue.grant(1, LEASE_MS + 1)).toEqual(['renewed'])
    expect(queue.holds('holds')).toBe(false)
    queue.leave('renewed', LEASE_MS + 2)
    expect(queue.grant(1, LEASE_MS + 2)).toEqual([])
  })

  test('of a running job takes a slot again after the queue was lost', ({ expect }) => {
    const queue = new SlotQueue(LEASE_MS)
    queue.enter('next', 'a', 0)
    queue.resume('running', 'b', 0)
    expect(queue.grant(1, 0)).toEqual([])
    queue.leave('running', 5)
    expect(queue.grant(1, 5)).toEqual(['next'])
  })
})

test('over any sequence of events no more jobs run than there are slots, and the account with the least usage is next', ({
  expect,
}) => {
  const event = fc.record({ job: fc.nat(11), leaves: fc.boolean(), after: fc.nat(1_000) })
  const property = fc.property(fc.array(event, { maxLength: 60 }), fc.integer({ min: 1, max: 3 }), (events, slots) => {
    const queue = new SlotQueue(Number.POSITIVE_INFINITY)
    const [waiting, running] = [new Set<number>(), new Map<number, number>()]
    const used = new Map<number, number>()
    const accountOf = (job: number) => job % 4
    let now = 0
    /** Without the half-life, which preserves the order of two accounts only if neither changes. */
    const usageOf = (account: number) =>
      [...running].reduce(
        (sum, [job, since]) => sum + (accountOf(job) === account ? now - since : 0),
        used.get(account) ?? 0,
      )
    for (const { job, leaves, after } of events) {
      now += after
      for (const [account, ms] of used) used.set(account, ms * 2 ** (-after / 60_000))
      if (leaves) {
        queue.leave(String(job), now)
        waiting.delete(job)
        const since = running.get(job)
        if (since !== undefined) used.set(accountOf(job), (used.get(accountOf(job)) ?? 0) + now - since)
        running.delete(job)
      } else {
        queue.enter(String(job), String(accountOf(job)), now)
        if (!running.has(job)) waiting.add(job)
      }
      for (const granted of queue.grant(slots, now).map(Number)) {
        const least = Math.min(...[...waiting].map((each) => usageOf(accountOf(each))))
        // A job counts a millisecond from its start.
        expect(usageOf(accountOf(granted))).toBeLessThanOrEqual(least + slots + 1)
        expect(waiting.delete(granted)).toBe(true)
        running.set(granted, now)
      }
      expect(running.size).toBeLessThanOrEqual(slots)
      expect(running.size === slots || waiting.size === 0).toBe(true)
      for (const each of running.keys()) expect(queue.holds(String(each))).toBe(true)
    }
  })
  fc.assert(property)
})

test.for(['0', '1.5', 'many', ''])('GPU_SLOTS is rejected by name: "%s"', (given, { expect }) => {
  expect(() => readSlots({ GPU_SLOTS: given })).toThrow(`GPU_SLOTS is "${given}"`)
})

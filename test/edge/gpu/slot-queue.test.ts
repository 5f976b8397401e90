// SlotQueue: which job gets a free slot of an endpoint.

import fc from 'fast-check'
import { describe, test } from 'vitest'
import { SlotQueue } from '../../../edge/gpu/slot-queue.ts'
import { createConfigWith } from '../support/config.ts'

const LEASE_MS = 30_000

const slotsOf = (gpus: number) => ({ gpus, sharing: 1 })
const termsOf = (account: string, interactive = false, created = 0) => ({ account, interactive, created })

/** A queue in which each of `jobs` (id → account) waits since time 0. */
function queueOf(jobs: Record<string, string>): SlotQueue {
  const queue = new SlotQueue(LEASE_MS)
  for (const [job, account] of Object.entries(jobs)) queue.enter(job, termsOf(account), 0)
  return queue
}

test('a job that arrives after a flood gets the next slot', ({ expect }) => {
  const queue = queueOf({ flood1: 'flood', flood2: 'flood', flood3: 'flood' })
  expect(queue.grant(slotsOf(1), 0)).toEqual(['flood1'])
  queue.enter('other', termsOf('honest'), 100)
  expect(queue.grant(slotsOf(1), 100)).toEqual([])
  queue.leave('flood1', 400)
  expect(queue.grant(slotsOf(1), 400)).toEqual(['other'])
  queue.leave('other', 800)
  expect(queue.grant(slotsOf(1), 800)).toEqual(['flood2'])
})

test('accounts without usage take turns of three jobs, the oldest first', ({ expect }) => {
  const queue = queueOf({ a1: 'a', a2: 'a', a3: 'a', a4: 'a', b1: 'b', b2: 'b' })
  expect(queue.grant(slotsOf(6), 0)).toEqual(['a1', 'a2', 'a3', 'b1', 'b2', 'a4'])
})

test('after a restart, jobs of an account are granted slots in order of creation, regardless of the order of renewal', ({
  expect,
}) => {
  const ids = Array.from({ length: 12 }, (_, k) => k)
  fc.assert(
    fc.property(fc.shuffledSubarray(ids, { minLength: ids.length }), fc.integer({ min: 1, max: 3 }), (order, gpus) => {
      const queue = new SlotQueue(LEASE_MS)
      for (const k of order) queue.enter(`${k}`, termsOf(k % 3 === 0 ? 'a' : 'b', false, k), 0)
      const served: number[] = []
      for (let now = 0; served.length < ids.length; now += 100)
        for (const job of queue.grant(slotsOf(gpus), now)) {
          served.push(Number(job))
          queue.leave(job, now + 50)
        }
      for (const remainder of [[0], [1, 2]]) {
        const own = served.filter((k) => remainder.includes(k % 3))
        expect(own).toEqual(own.toSorted((x, y) => x - y))
      }
    }),
  )
})

test('a job with a lost attempt precedes newer jobs of its account', ({ expect }) => {
  const queue = new SlotQueue(LEASE_MS)
  for (const [k, job] of ['old', 'young', 'last'].entries()) queue.enter(job, termsOf('a', false, k), 0)
  expect(queue.grant(slotsOf(1), 0)).toEqual(['old'])
  queue.leave('old', 1_000)
  queue.enter('old', termsOf('a', false, 0), 1_000)
  expect(queue.grant(slotsOf(1), 1_000)).toEqual(['old'])
})

test('a light account is served in order of arrival with others, and before a heavy one', ({ expect }) => {
  const queue = queueOf({ heavy: 'heavy', light: 'light' })
  expect(queue.grant(slotsOf(1), 0)).toEqual(['heavy'])
  queue.leave('heavy', 10_000)
  expect(queue.grant(slotsOf(1), 10_000)).toEqual(['light'])
  for (const account of ['heavy', 'light', 'newcomer']) queue.enter(`${account}2`, termsOf(account), 10_100)
  queue.leave('light', 10_500)
  expect(queue.grant(slotsOf(1), 10_500)).toEqual(['light2'])
  queue.leave('light2', 11_000)
  expect(queue.grant(slotsOf(1), 11_000)).toEqual(['newcomer2'])
  queue.leave('newcomer2', 11_500)
  expect(queue.grant(slotsOf(1), 11_500)).toEqual(['heavy2'])
})

test.for([
  ['a second', 1_000, 'b2'],
  ['ten minutes', 600_000, 'a2'],
] as const)(
  '%s after a burst of an account, its job is served according to its recent usage',
  ([, afterMs, next], { expect }) => {
    const queue = queueOf({ burst: 'a', b1: 'b' })
    queue.grant(slotsOf(2), 0)
    queue.leave('b1', 100)
    queue.leave('burst', 20_000)
    const now = 20_000 + afterMs
    queue.enter('a2', termsOf('a'), now)
    queue.enter('b2', termsOf('b'), now)
    expect(queue.grant(slotsOf(1), now)).toEqual([next])
  },
)

test('accounts with little usage do not make a regular one as heavy as the one with the most', ({ expect }) => {
  const queue = new SlotQueue(LEASE_MS)
  let now = 0
  const use = (account: string, ms: number) => {
    queue.enter(account, termsOf(account), now)
    queue.grant(slotsOf(1), now)
    now += ms
    queue.leave(account, now)
  }
  for (const account of ['c', 'd', 'e', 'f', 'g']) use(account, 100)
  use('flood', 20_000)
  use('regular', 6_000)
  queue.enter('flood2', termsOf('flood', true), now)
  queue.enter('regular2', termsOf('regular'), now)
  expect(queue.grant(slotsOf(1), now)).toEqual(['regular2'])
})

test('a new account has no credit for past idleness', ({ expect }) => {
  const queue = queueOf({ regular1: 'regular' })
  queue.grant(slotsOf(1), 0)
  queue.leave('regular1', 10_000)
  for (const job of ['new1', 'new2', 'new3', 'new4']) queue.enter(job, termsOf('new'), 10_000)
  queue.grant(slotsOf(1), 10_000)
  queue.enter('regular2', termsOf('regular'), 12_000)
  queue.leave('new1', 18_000)
  expect(queue.grant(slotsOf(1), 18_000)).toEqual(['regular2'])
})

test('the usage of an account with a long job is the time of that job alone', ({ expect }) => {
  const queue = queueOf({ long: 'a' })
  queue.grant(slotsOf(2), 0)
  for (let k = 0; k < 10; k++) {
    queue.enter(`short${k}`, termsOf('b'), k * 2_000)
    queue.grant(slotsOf(2), k * 2_000)
    queue.leave(`short${k}`, k * 2_000 + 2_000)
  }
  queue.leave('long', 20_000)
  queue.enter('a2', termsOf('a'), 20_000)
  queue.enter('b2', termsOf('b'), 20_000)
  expect(queue.grant(slotsOf(1), 20_000)).toEqual(['a2'])
})

test('a heavy account gets a slot every 30 s while jobs of light accounts always wait', ({ expect }) => {
  const lights = ['a', 'b', 'c', 'd']
  const queue = queueOf(Object.fromEntries(lights.map((account) => [account, account])))
  queue.grant(slotsOf(lights.length), 0)
  for (const account of lights) queue.leave(account, 1_000)
  queue.enter('long', termsOf('heavy'), 1_000)
  queue.grant(slotsOf(1), 1_000)
  queue.leave('long', 101_000)
  const grants = new Map<string, number>()
  for (let second = 0; second < 80; second++) {
    const now = 101_000 + 1_000 * second
    for (const job of ['heavy1', 'heavy2']) if (!grants.has(job)) queue.enter(job, termsOf('heavy'), now)
    for (const account of lights) queue.enter(account, termsOf(account), now)
    const [job] = queue.grant(slotsOf(1), now)
    grants.set(job!, second)
    queue.leave(job!, now + 999)
  }
  expect(grants.get('heavy1')).toBe(31)
  expect(grants.get('heavy2')).toBe(62)
})

describe('with several jobs per GPU', () => {
  const shared = { gpus: 1, sharing: 4 }

  test('an account has at most two jobs at a GPU, and others find a free slot', ({ expect }) => {
    const queue = queueOf({ a1: 'a', a2: 'a', a3: 'a' })
    expect(queue.grant(shared, 0)).toEqual(['a1', 'a2'])
    queue.enter('b1', termsOf('b'), 10)
    queue.enter('c1', termsOf('c'), 10)
    expect(queue.grant(shared, 10)).toEqual(['b1', 'c1'])
    queue.enter('d1', termsOf('d'), 20)
    expect(queue.grant(shared, 20)).toEqual([])
    queue.leave('b1', 30)
    expect(queue.grant(shared, 30)).toEqual(['d1'])
  })

  test('a heavy account has at most one job at a GPU', ({ expect }) => {
    const queue = queueOf({ a1: 'a', b1: 'b' })
    queue.grant(shared, 0)
    queue.leave('b1', 1_000)
    queue.leave('a1', 20_000)
    for (const job of ['a2', 'a3', 'b2', 'b3']) queue.enter(job, termsOf(job[0]!), 20_000)
    expect(queue.grant(shared, 20_000)).toEqual(['b2', 'b3', 'a2'])
  })

  test('interactive jobs of light accounts come first', ({ expect }) => {
    const queue = queueOf({ a1: 'a' })
    queue.enter('b1', termsOf('b', true), 10)
    expect(queue.grant({ gpus: 1, sharing: 1 }, 10)).toEqual(['b1'])
  })
})

describe('an entry', () => {
  test('keeps its place when it is renewed', ({ expect }) => {
    const queue = queueOf({ first: 'a', second: 'b' })
    queue.enter('first', termsOf('a'), 10)
    expect(queue.grant(slotsOf(1), 10)).toEqual(['first'])
    queue.enter('first', termsOf('a'), 20)
    expect([queue.hasSlot('first'), queue.grant(slotsOf(1), 20)]).toEqual([true, []])
  })

  test('expires without renewals, whether it waits or holds a slot', ({ expect }) => {
    const queue = queueOf({ holds: 'a', silent: 'b', renewed: 'c' })
    queue.grant(slotsOf(1), 0)
    queue.enter('renewed', termsOf('c'), LEASE_MS)
    expect(queue.grant(slotsOf(1), LEASE_MS + 1)).toEqual([])
    expect(queue.expire(LEASE_MS + 1)).toEqual(['holds'])
    expect(queue.grant(slotsOf(1), LEASE_MS + 1)).toEqual(['renewed'])
    queue.leave('renewed', LEASE_MS + 2)
    expect(queue.grant(slotsOf(1), LEASE_MS + 2)).toEqual([])
  })

  test('of a running job regains its slot after the loss of the queue', ({ expect }) => {
    const queue = new SlotQueue(LEASE_MS)
    queue.enter('next', termsOf('a'), 0)
    queue.resume('running', termsOf('b'), 0)
    expect(queue.grant(slotsOf(1), 0)).toEqual([])
    queue.leave('running', 5)
    expect(queue.grant(slotsOf(1), 5)).toEqual(['next'])
  })
})

test('over any sequence of events no slot is idle or granted twice', ({ expect }) => {
  const event = fc.record({ job: fc.nat(11), leaves: fc.boolean(), after: fc.nat(20_000) })
  const property = fc.property(fc.array(event, { maxLength: 60 }), fc.integer({ min: 1, max: 3 }), (events, slots) => {
    const queue = new SlotQueue(Number.POSITIVE_INFINITY)
    const [waiting, running] = [new Set<string>(), new Set<string>()]
    let now = 0
    for (const { job: number, leaves, after } of events) {
      now += after
      const job = String(number)
      if (leaves) {
        queue.leave(job, now)
        waiting.delete(job)
        running.delete(job)
      } else {
        queue.enter(job, termsOf(String(number % 3)), now)
        if (!running.has(job)) waiting.add(job)
      }
      for (const granted of queue.grant(slotsOf(slots), now)) {
        expect(waiting.delete(granted)).toBe(true)
        running.add(granted)
      }
      expect(running.size).toBeLessThanOrEqual(slots)
      expect(running.size === slots || waiting.size === 0).toBe(true)
      for (const each of running) expect(queue.hasSlot(each)).toBe(true)
    }
  })
  fc.assert(property)
})

test('accounts of equal usage take turns, regardless of the order in which their jobs arrive', ({ expect }) => {
  const property = fc.property(fc.array(fc.nat(3), { maxLength: 40 }), (arrivals) => {
    const queue = new SlotQueue(LEASE_MS)
    const left = new Map<number, number>()
    for (const [job, account] of arrivals.entries()) {
      queue.enter(`${account}/${job}`, termsOf(String(account)), 0)
      left.set(account, (left.get(account) ?? 0) + 1)
    }
    const granted = new Map([...left.keys()].map((account) => [account, 0]))
    for (const job of queue.grant(slotsOf(arrivals.length), 0)) {
      const account = Number(job.split('/')[0])
      granted.set(account, granted.get(account)! + 1)
      left.set(account, left.get(account)! - 1)
      for (const [other, count] of left)
        if (count > 0) expect(granted.get(account)! - granted.get(other)!).toBeLessThanOrEqual(3)
    }
  })
  fc.assert(property)
})

test('GPU_DEVICES is 1 by default, and an error names the variable', ({ expect }) => {
  expect(createConfigWith({ GPU_DEVICES: undefined }).gpuDevices).toBe(1)
  expect(createConfigWith({ GPU_DEVICES: '2' }).gpuDevices).toBe(2)
  expect(() => createConfigWith({ GPU_DEVICES: '17' }).gpuDevices).toThrow(
    'GPU_DEVICES is "17"; it must be a whole number from 1 to 16.',
  )
})

test.for(['0', '1.5', 'many', ''])('an error about GPU_SLOTS names the variable: "%s"', (given, { expect }) => {
  expect(() => createConfigWith({ GPU_SLOTS: given }).gpuSlots).toThrow(`GPU_SLOTS is "${given}"`)
})

describe('while interactive jobs of light accounts always wait', () => {
  /** Serves a job per second, with a waiting interactive job of each of four accounts. Returns the second of each grant of `watched`. */
  function serve(queue: SlotQueue, watched: readonly string[], account: string, seconds: number): Map<string, number> {
    const grants = new Map<string, number>()
    for (let second = 0; second < seconds; second++) {
      const now = 1_000 * second
      for (const job of watched) if (!grants.has(job)) queue.enter(job, termsOf(account), now)
      for (const other of ['a', 'b', 'c', 'd']) queue.enter(other, termsOf(other, true), now)
      const [job] = queue.grant(slotsOf(1), now)
      if (watched.includes(job!)) grants.set(job!, second)
      queue.leave(job!, now + 999)
    }
    return grants
  }

  test('an account with other jobs gets a slot every 30 s', ({ expect }) => {
    const grants = serve(new SlotQueue(LEASE_MS), ['full1', 'full2'], 'full', 80)
    expect([grants.get('full1'), grants.get('full2')]).toEqual([31, 62])
  })

  test('so does an account that has canceled a hundred jobs', ({ expect }) => {
    const queue = new SlotQueue(LEASE_MS)
    for (let k = 0; k < 100; k++) queue.enter(`canceled${k}`, termsOf('full'), 0)
    for (let k = 0; k < 100; k++) queue.leave(`canceled${k}`, 0)
    expect(serve(queue, ['full1'], 'full', 80).get('full1')).toBe(31)
  })
})

test.for(['leave', 'expire'] as const)(
  'jobs that %s the queue without a slot use no turn of their account',
  (how, { expect }) => {
    const queue = new SlotQueue(LEASE_MS)
    for (let k = 0; k < 30; k++) queue.enter(`gone${k}`, termsOf('a'), 0)
    for (let k = 0; k < 30; k++) if (how === 'leave') queue.leave(`gone${k}`, 0)
    const now = how === 'leave' ? 0 : LEASE_MS + 1
    for (let k = 0; k < 12; k++) queue.enter(`b${k}`, termsOf('b'), now)
    for (let k = 0; k < 3; k++) queue.enter(`a${k}`, termsOf('a'), now)
    expect(queue.grant(slotsOf(6), now)).toEqual(['b0', 'b1', 'b2', 'a0', 'a1', 'a2'])
  },
)

import { describe, test } from 'vitest'
import {
  countSpentToday,
  isScheduled,
  markReady,
  markStarting,
  NO_READINESS,
  pingCost,
  recordSpending,
  startSeconds,
  stateOf,
} from '../../../edge/gpu/readiness.ts'
import { createConfigWith } from '../support/config.ts'

const given = { idle_seconds: 100, start_seconds: 60, budget_seconds: 1000 }
const read = (OCTET_PREWARM: unknown) => createConfigWith({ OCTET_PREWARM }).prewarm
const policy = read(given)
const NOW = Date.parse('2026-11-26T12:00:00Z')
const addSeconds = (seconds: number) => NOW + seconds * 1000

test('a GPU is warm for the host’s idle time after it was ready, then cold', ({ expect }) => {
  const warm = markReady(NO_READINESS, NOW)
  expect(stateOf(NO_READINESS, policy, NOW)).toEqual({ state: 'cold', ready_in_seconds: 60 })
  expect(stateOf(warm, policy, addSeconds(99))).toEqual({ state: 'warm', ready_in_seconds: 0 })
  expect(stateOf(warm, policy, addSeconds(101))).toEqual({ state: 'cold', ready_in_seconds: 60 })
})

test('during a start, the remaining time is estimated from earlier starts', ({ expect }) => {
  const starting = markStarting(NO_READINESS, NOW)
  expect(stateOf(starting, policy, addSeconds(10))).toEqual({ state: 'starting', ready_in_seconds: 50 })
  expect(stateOf(starting, policy, addSeconds(300))).toEqual({ state: 'starting', ready_in_seconds: 1 })
  let readiness = NO_READINESS
  for (const took of [20, 30, 500]) readiness = markReady(markStarting(readiness, NOW), addSeconds(took))
  expect(startSeconds(readiness, policy)).toBe(30)
})

test('a clock that moves backward over midnight loses no spending on prewarming', ({ expect }) => {
  const midnight = Date.parse('2026-11-22T00:00:00Z')
  const spent = recordSpending(NO_READINESS, 30, midnight + 1_000)
  const later = recordSpending(spent, 5, midnight - 1_000)
  expect([countSpentToday(spent, midnight - 1_000), countSpentToday(later, midnight + 2_000)]).toEqual([30, 35])
})

test('a start that never completes is discarded', ({ expect }) => {
  const starting = markStarting(NO_READINESS, NOW)
  expect(stateOf(starting, policy, addSeconds(16 * 60)).state).toBe('cold')
  expect(markReady(starting, addSeconds(16 * 60)).starts).toEqual([])
})

describe('a ping', () => {
  test('costs the start and the idle time of a cold GPU, and the added idle time of a warm one', ({ expect }) => {
    expect(pingCost(NO_READINESS, policy, NOW)).toBe(160)
    expect(pingCost(markReady(NO_READINESS, NOW), policy, addSeconds(80))).toBe(80)
  })

  test('is not sent while most of the idle time is left, or during a start', ({ expect }) => {
    expect(pingCost(markReady(NO_READINESS, NOW), policy, addSeconds(40))).toBeNull()
    expect(pingCost(markStarting(NO_READINESS, NOW), policy, addSeconds(40))).toBeNull()
  })

  test('is not sent beyond the daily budget, which is reset at midnight UTC', ({ expect }) => {
    const spent = recordSpending(NO_READINESS, 900, NOW)
    expect(pingCost(spent, policy, NOW)).toBeNull()
    expect(pingCost(spent, policy, Date.parse('2026-11-27T00:00:00Z'))).toBe(160)
    expect(countSpentToday(recordSpending(spent, 50, NOW), NOW)).toBe(950)
  })

  test('is never sent without a budget', ({ expect }) => {
    expect(pingCost(NO_READINESS, read(undefined), NOW)).toBeNull()
  })
})

describe('the schedule', () => {
  const isScheduledAt = (schedule: object[], time: string) => isScheduled(read({ schedule }), Date.parse(time))
  const office = [{ from: '08:00', to: '18:00', days: [1, 2, 3, 4, 5] }]

  test.for<[string, boolean]>([
    ['2026-11-26T08:00:00Z', true],
    ['2026-11-26T17:59:59Z', true],
    ['2026-11-26T18:00:00Z', false],
    ['2026-11-26T07:59:59Z', false],
    ['2026-11-28T12:00:00Z', false],
  ])('office hours at %s: %s', ([time, wanted], { expect }) => expect(isScheduledAt(office, time)).toBe(wanted))

  test.for<[string, boolean]>([
    ['2026-11-28T23:00:00Z', true],
    ['2026-11-29T01:59:00Z', true],
    ['2026-11-29T02:00:00Z', false],
    ['2026-11-28T01:00:00Z', false],
  ])('over midnight of a Saturday at %s: %s', ([time, wanted], { expect }) =>
    expect(isScheduledAt([{ from: '22:00', to: '02:00', days: [6] }], time)).toBe(wanted),
  )

  test('without days applies every day, and without entries never', ({ expect }) => {
    expect(isScheduledAt([{ from: '00:00', to: '24:00' }], '2026-11-29T12:00:00Z')).toBe(true)
    expect(isScheduledAt([], '2026-11-29T12:00:00Z')).toBe(false)
  })
})

test.for([
  [{ budget_seconds: -1 }, 'budget_seconds'],
  [{ schedule: [{ from: '8', to: '18:00' }] }, 'must be a time of day in UTC such as 08:00'],
  [{ surprise: 1 }, 'surprise'],
] as const)('an error about a malformed table names the variable: %j', ([given, told], { expect }) => {
  expect(() => read(given)).toThrow(told)
})

import { describe, test } from 'vitest'
import { evaluate, retryAfterSeconds, waitAfter } from '../../../edge/webhooks/delivery/schedule.ts'
import { createConfigWith } from '../support/config.ts'

const SCHEDULE = '5,300,1800,7200,18000,36000,50400,72000,86400'
const NOW = Date.parse('2026-11-22T10:00:00Z')

describe('the schedule', () => {
  const { schedule } = createConfigWith({ WEBHOOK_RETRY_SECONDS: SCHEDULE }).webhooks

  test('is that of Standard Webhooks: ten attempts in about 75 hours', ({ expect }) => {
    const waits = Array.from({ length: 10 }, (_, k) => waitAfter(k + 1, schedule, 0.5))
    expect(waits).toEqual([5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400, null])
    expect(schedule.reduce((sum, wait) => sum + wait, 0) / 3600).toBeCloseTo(75.6, 1)
  })

  test('varies by ±10 %, so that simultaneous failures are not retried simultaneously', ({ expect }) => {
    expect([waitAfter(2, schedule, 0), waitAfter(2, schedule, 1)]).toEqual([270, 330])
    const waits = new Set(Array.from({ length: 50 }, () => waitAfter(2, schedule)))
    expect(waits.size).toBeGreaterThan(40)
  })
})

test('a delivery has a lifetime of four days, or longer if its schedule is longer', ({ expect }) => {
  const addDays = (WEBHOOK_RETRY_SECONDS: string) =>
    createConfigWith({ WEBHOOK_RETRY_SECONDS }).webhooks.lifetimeMs / 86_400_000
  expect([addDays('0'), addDays(SCHEDULE), addDays('864000')]).toEqual([4, 4, 12.5])
})

test.for([
  ['120', 120],
  ['0', 0],
  [' 7 ', 7],
  ['Sun, 22 Nov 2026 10:01:00 GMT', 60],
  ['Sun, 22 Nov 2026 09:00:00 GMT', 0],
  ['999999999', 86_400],
  ['-5', 0],
  ['later', 0],
  ['', 0],
  [null, 0],
] as const)('Retry-After %j is %d s', ([header, seconds], { expect }) => {
  expect(retryAfterSeconds(header, NOW)).toBe(seconds)
})

test.for([
  [200, null, { kind: 'delivered' }],
  [204, null, { kind: 'delivered' }],
  [299, null, { kind: 'delivered' }],
  [301, null, { kind: 'failed', pause: 0 }],
  [304, null, { kind: 'failed', pause: 0 }],
  [400, null, { kind: 'failed', pause: 0 }],
  [404, null, { kind: 'failed', pause: 0 }],
  [410, null, { kind: 'gone' }],
  [429, null, { kind: 'failed', pause: 60 }],
  [429, '7', { kind: 'failed', pause: 7 }],
  [502, null, { kind: 'failed', pause: 60 }],
  [503, null, { kind: 'failed', pause: 0 }],
  [503, '90', { kind: 'failed', pause: 90 }],
  [504, 'nonsense', { kind: 'failed', pause: 60 }],
] as const)('%d with Retry-After %j', ([status, retryAfter, evaluation], { expect }) => {
  expect(evaluate({ status, retryAfter }, NOW)).toEqual(evaluation)
})

test('a missing response is a failure; a forbidden address is never retried', ({ expect }) => {
  expect(evaluate({ error: 'timeout' }, NOW)).toEqual({ kind: 'failed', pause: 0 })
  expect(evaluate({ error: 'unreachable' }, NOW)).toEqual({ kind: 'failed', pause: 0 })
  expect(evaluate({ error: 'blocked' }, NOW)).toEqual({ kind: 'blocked' })
})

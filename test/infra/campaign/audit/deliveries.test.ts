// The campaign audit's wait for webhooks, in simulated time.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { LONGEST_OPEN_MS } from '../../../../edge/webhooks/endpoints/breaker.ts'
import { pollDeliveries } from '../../../../infra/campaign/audit/deliveries.ts'

vi.mock('node:timers/promises', () => ({
  setTimeout: (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
}))

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const DEADLINE_MS = 60_000
const PROBLEM = 'no event was accepted'

/**
 * Polls with one delivery missing until `acceptedAt`. `dueAt` returns the time of the next attempt. Times are milliseconds from the start.
 */
async function poll(acceptedAt: number, dueAt: (now: number) => number | null) {
  const [start, started] = [Date.now(), performance.now()]
  const since = () => Date.now() - start
  const findProblems = () => (since() >= acceptedAt ? [] : [PROBLEM])
  const polled = pollDeliveries(started + DEADLINE_MS, findProblems, async () => {
    const due = dueAt(since())
    return due === null ? null : start + due
  })
  await vi.runAllTimersAsync()
  return { left: await polled, seconds: since() / 1000 }
}

test('waits beyond the deadline for the trial of an open circuit breaker', async () => {
  const openUntil = DEADLINE_MS + 51_000
  const { left, seconds } = await poll(openUntil + 100, () => openUntil)
  expect(left).toEqual([])
  expect(seconds).toBeLessThan((openUntil + 2000) / 1000)
})

test('waits for the next trial after each failed one', async () => {
  const trials = [70_000, 90_000, 130_000, 210_000]
  const { left } = await poll(210_000, (now) => trials.find((at) => at > now) ?? null)
  expect(left).toEqual([])
})

test('stops at the deadline without a scheduled attempt', async () => {
  const { left, seconds } = await poll(Number.POSITIVE_INFINITY, () => null)
  expect(left).toEqual([PROBLEM])
  expect(seconds).toBeLessThan(DEADLINE_MS / 1000 + 1)
})

test('waits for an overdue delivery behind an earlier attempt', async () => {
  expect((await poll(150_000, () => 80_000)).left).toEqual([])
})

test.each([
  ['a receiver that always fails', (now: number) => now + 30_000],
  ['an attempt that is never made', () => 80_000],
])('%s ends the wait after the maximum open time of a circuit breaker', async (_, dueAt) => {
  const { left, seconds } = await poll(Number.POSITIVE_INFINITY, dueAt)
  expect(left).toEqual([PROBLEM])
  expect(seconds).toBeCloseTo((DEADLINE_MS + LONGEST_OPEN_MS) / 1000, -1)
})

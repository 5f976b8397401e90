import { expect, test } from 'vitest'
import { accuracyOf } from '../../../../infra/bench/schedule/outcome.ts'
import { isMet } from '../../../../infra/bench/schedule/report.ts'
import { compare } from '../../../../infra/bench/schedule/schedule.ts'

test('the scheduler meets its criteria on a trace of an hour at 0.95 of the capacity', () => {
  const { verdict, fcfs, steps } = compare(0.95, { minutes: 60, seed: 5, aging: 60 })
  expect(verdict.turbo).toBeLessThanOrEqual(0.35)
  expect(verdict.honest).toBeLessThanOrEqual(1.3)
  expect(verdict.throughput).toBeGreaterThanOrEqual(0.97)
  expect(verdict.longestMs).toBeLessThanOrEqual(verdict.agingMs)
  expect(isMet(verdict)).toBe(true)
  expect(isMet({ ...verdict, turbo: 0.4 })).toBe(false)
  expect(steps.served).toHaveLength(fcfs.served.length)
})

test('at twice the capacity every accepted job ends within the aging bound, and refused ones return in time', () => {
  const { verdict, fcfs, steps } = compare(2, { minutes: 10, seed: 5, aging: 60 })
  expect(steps.refusals.length).toBeGreaterThan(100)
  const { judged, accurate } = accuracyOf(steps.refusals, 600_000)
  expect(accurate / judged).toBeGreaterThan(0.6)
  expect(verdict.longestMs).toBeLessThanOrEqual(verdict.agingMs)
  expect(steps.served.map(({ account }) => account).toSorted()).toEqual(
    fcfs.served.map(({ account }) => account).toSorted(),
  )
})

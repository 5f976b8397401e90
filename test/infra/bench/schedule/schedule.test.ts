import { expect, test } from 'vitest'
import { accuracyOf, computeP95, filterByClass, filterHonest } from '../../../../infra/bench/schedule/outcome.ts'
import { isMet } from '../../../../infra/bench/schedule/report.ts'
import { compare } from '../../../../infra/bench/schedule/schedule.ts'
import { simulate, stepScheduler } from '../../../../infra/bench/schedule/simulate.ts'
import {
  type Arrival,
  CLASSES,
  drawLoad,
  estimateDeviceMs,
  H200,
  removeFlood,
} from '../../../../infra/bench/schedule/trace.ts'

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

test('the scheduler meets its criteria on short traces with steps 5 % longer than those of the load', () => {
  const seeds = Array.from({ length: 24 }, (_, i) => i + 1)
  const settings = { minutes: 8, aging: 60, slowdown: 1.05 }
  expect(seeds.filter((seed) => !isMet(compare(0.95, { ...settings, seed }).verdict))).toEqual([])
})

test('two jobs of another account before a trace do not delay the full jobs of honest accounts', () => {
  // A run on an H200, whose two first jobs measured the step times: an account with three full jobs within two seconds, early in the load.
  const [turbo, full] = [246, 2084]
  const whole = { encode: 0, decode: 0, file: 0, steps: 1 }
  const trace = drawLoad({ turbo: { ...whole, step: turbo }, full: { ...whole, step: full } }, 0.95, 8, 1)
  const costs = {
    turbo: { encode: 20, step: (turbo - 45) / 4, decode: 25, file: 35, steps: 4 },
    full: { encode: 40, step: (full - 65) / 28, decode: 25, file: 35, steps: 28 },
  }
  const first = CLASSES.map((kind): Arrival => ({ id: `first-${kind}`, account: 'first', kind, at: 0 }))
  const measureP95 = (arrivals: Arrival[]) => {
    const later = arrivals.map((each) => ({ ...each, at: each.at + 2_500 }))
    const { served } = simulate([...first, ...later], costs, stepScheduler(60_000))
    const honest = filterHonest(served).filter(({ account }) => account !== 'first')
    return computeP95(filterByClass(honest, 'full'))
  }
  expect(measureP95(trace) / measureP95(removeFlood(trace))).toBeLessThanOrEqual(1.3)
})

test('at twice the capacity every accepted job ends within the aging bound, and refused ones return in time', () => {
  const { verdict, fcfs, steps } = compare(2, { minutes: 10, seed: 5, aging: 60 })
  expect(steps.refusals.length).toBeGreaterThan(100)
  const { judged, accurate } = accuracyOf(steps.refusals, 600_000)
  expect(judged).toBeGreaterThan(100)
  expect(accurate / judged).toBeGreaterThan(0.9)
  expect(verdict.longestMs).toBeLessThanOrEqual(verdict.agingMs)
  expect(steps.served.map(({ account }) => account).toSorted()).toEqual(
    fcfs.served.map(({ account }) => account).toSorted(),
  )
})

test('a Retry-After is accurate from 70 to 130 % of it, with a second of rounding, and judged within the trace', () => {
  const refusals = [6_000, 7_000, 10_000, 13_000, 14_000, null].map((waited) => ({
    ...{ at: 1_000, promised: 10_000, accepted: waited === null ? null : 1_000 + waited },
  }))
  const unjudged = { at: 90_000, promised: 10_000, accepted: 91_000 }
  expect(accuracyOf([...refusals, unjudged], 100_000)).toEqual({ judged: 6, accurate: 3, early: 1, late: 2 })
})

test('the work of a short trace is close to the load', () => {
  const trace = drawLoad(H200, 0.95, 5, 3)
  const work = trace.reduce((sum, { kind }) => sum + estimateDeviceMs(H200[kind]), 0)
  expect(work / (0.95 * 300_000)).toBeCloseTo(1, 1)
})

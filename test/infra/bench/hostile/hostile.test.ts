// Parts of the hostile benchmark: percentiles, open-loop load, memory growth, attack rates, and pass criteria.
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { ATTACKS, planAttacks } from '../../../../infra/bench/hostile/attacks.ts'
import { summarize, TIMEOUT_MS } from '../../../../infra/bench/hostile/honest.ts'
import { growthOf } from '../../../../infra/bench/hostile/memory.ts'
import { drawNextArrivalMs, runOpenLoop } from '../../../../infra/bench/hostile/open-loop.ts'
import { judge, type Report } from '../../../../infra/bench/hostile/report.ts'
import { percentile } from '../../../../infra/bench/statistics.ts'
import { randomOf } from '../../../../infra/command/random.ts'

const MB = 2 ** 20

test('percentiles use the nearest-rank method', () => {
  const hundred = Array.from({ length: 100 }, (_, index) => 100 - index)
  expect([0.5, 0.95, 0.99, 1, 0].map((part) => percentile(hundred, part))).toEqual([50, 95, 99, 100, 1])
  expect(percentile([7], 0.95)).toBe(7)
  expect(percentile([], 0.5)).toBeNaN()
})

describe('open-loop load', () => {
  test('has exponentially distributed gaps at the given rate', () => {
    const random = randomOf(1, 'arrivals')
    const gaps = Array.from({ length: 20_000 }, () => drawNextArrivalMs(4, random))
    const mean = gaps.reduce((total, gap) => total + gap, 0) / gaps.length
    expect(mean).toBeGreaterThan(240)
    expect(mean).toBeLessThan(260)
    expect(gaps.filter((gap) => gap > 750).length / gaps.length).toBeCloseTo(Math.exp(-3), 2)
  })

  test('does not wait for responses, and passes each request its scheduled time', async () => {
    const over = new AbortController()
    const dues: number[] = []
    const { promise: reply, resolve } = Promise.withResolvers<void>()
    const load = runOpenLoop({ perSecond: 500, random: randomOf(1, 'x'), signal: over.signal }, (due) => {
      dues.push(due)
      return reply
    })
    while (dues.length < 20) await sleep(5)
    over.abort()
    resolve()
    expect(await load).toEqual({ sent: dues.length, skipped: 0 })
    expect(dues).toEqual(dues.toSorted((a, b) => a - b))
  })

  test('sends its first request at once, so that a short run has one', async () => {
    const over = new AbortController()
    const options = { perSecond: 1e-6, random: randomOf(1, 'x'), signal: over.signal }
    expect(await runOpenLoop(options, async () => over.abort())).toEqual({ sent: 1, skipped: 0 })
  })

  test('skips requests over the concurrency limit', async () => {
    const over = new AbortController()
    const { promise: reply, resolve } = Promise.withResolvers<void>()
    const load = runOpenLoop(
      { perSecond: 1000, random: randomOf(1, 'x'), signal: over.signal, maxInFlight: 3 },
      () => reply,
    )
    await sleep(200)
    over.abort()
    resolve()
    const { sent, skipped } = await load
    expect(sent).toBe(3)
    expect(skipped).toBeGreaterThan(0)
  })
})

test('a failed request counts with the maximum latency, so that fast rejections do not improve the statistics', () => {
  const times = [...Array.from({ length: 90 }, () => 100), ...Array.from({ length: 10 }, () => TIMEOUT_MS)]
  const failures = new Map([
    ['503 gpu_unavailable', 9],
    ['ECONNRESET', 1],
  ])
  expect(summarize({ times, failures })).toEqual({
    sent: 100,
    failed: 10,
    p50: 100,
    p95: TIMEOUT_MS,
    p99: TIMEOUT_MS,
  })
})

test.each([
  ['the same', [100, 101, 99, 100, 102, 98, 100, 100, 101], true],
  ['a little more', [100, 100, 100, 110, 110, 110, 118, 119, 120], true],
  ['more by what small processes need', [30, 30, 30, 40, 40, 40, 60, 60, 60], true],
  ['growing', [100, 100, 100, 200, 200, 200, 300, 300, 300], false],
  ['growing for ever', [400, 420, 440, 460, 480, 500, 520, 540, 560], false],
])('memory classification: %s', (_, megabytes, flat) => {
  const [growth] = growthOf(megabytes.map((each) => ({ workerd: each * MB })))
  expect(growth).toMatchObject({ name: 'workerd', flat, peak: Math.max(...megabytes) * MB })
})

test('the flood raises the total job rate to the given one, and only the selected attacks are planned', () => {
  const planned = new Map(planAttacks(ATTACKS, 3.6).map(([name, perSecond]) => [name, perSecond]))
  expect([...planned.keys()].toSorted()).toEqual([...ATTACKS].toSorted())
  const jobs = ['flood', 'hanging webhooks', 'cancels', 'two bodies under one name', 'leaving']
  expect(jobs.reduce((total, name) => total + planned.get(name)!, 0)).toBeCloseTo(3.6)
  expect(planAttacks(['lists'], 3.6).map(([name]) => name)).toEqual(['lists'])
  expect(planAttacks(['flood', 'cancels'], 0.1).map(([name]) => name)).toEqual(['cancels'])
})

describe('the criteria', () => {
  const phase = { sent: 600, failed: 0, p50: 400, p95: 1000, p99: 1200, failures: {} }
  const growth = [{ name: 'workerd', first: 100 * MB, last: 110 * MB, peak: 120 * MB, flat: true }]
  const memory = { alone: [], among: growth }
  const report: Report = { alone: phase, among: { ...phase, p95: 1500 }, tallies: {}, memory }

  test('are met with a p95 ratio of 1.5, no failures, and flat memory', () => {
    expect(judge(report)).toEqual({ ratio: 1.5, fast: true, flat: true, answered: true, met: true })
  })

  test.each([
    ['a higher p95', { among: { ...phase, p95: 1501 } }, { fast: false }],
    ['a failed request', { among: { ...phase, failed: 1 } }, { answered: false }],
    ['no request', { among: { ...phase, sent: 0 } }, { answered: false }],
    ['memory that grows', { memory: { alone: [], among: [{ ...growth[0]!, flat: false }] } }, { flat: false }],
    ['no samples of the memory', { memory: { alone: growth, among: [] } }, { flat: false }],
  ])('are not met with %s', (_, change, verdict) => {
    expect(judge({ ...report, ...change })).toMatchObject({ ...verdict, met: false })
  })
})

import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { expect, test } from 'vitest'
import { randomOf } from '../../../infra/command/random.ts'
import { costOf } from '../../../infra/cost/model.ts'
import { simulate } from '../../../infra/cost/simulate.ts'
import { fillPage } from '../../../infra/cost/tables.ts'
import { drawArrivals } from '../../../infra/cost/traffic.ts'
import { runChecks } from './queueing-theory.ts'

const fleet = { service: () => 2, coldSeconds: 10, idleSeconds: 60, minContainers: 0, maxContainers: 2 }
const simulateAt = (...times: number[]) => simulate(Float64Array.from(times), fleet)

test('the simulation is within 5 % of every closed form', () => {
  for (const { label, difference } of runChecks()) expect.soft(difference, label).toBeLessThan(0.05)
})

test('a single image costs its start, its service time and the idle window', () => {
  expect(simulateAt(0)).toMatchObject({ containerSeconds: 10 + 2 + 60, coldShare: 1, p50: 12, peakContainers: 1 })
})

test('an image within the idle window is warm, and one after it is cold', () => {
  expect(simulateAt(0, 40)).toMatchObject({ containerSeconds: 42 + 60, coldShare: 0.5 })
  expect(simulateAt(0, 100)).toMatchObject({ containerSeconds: 2 * 72, coldShare: 1 })
})

test('at the maximum number of containers, images wait in order', () => {
  const { peakContainers, p95, containerSeconds } = simulateAt(0, 0, 0, 0)
  expect(peakContainers).toBe(2)
  expect(p95).toBe(14)
  expect(containerSeconds).toBe(2 * (10 + 4 + 60))
})

test('permanent containers are billed for the whole time', () => {
  const { containerSeconds, coldShare } = simulate(Float64Array.from([0, 1000]), { ...fleet, minContainers: 1 })
  expect(coldShare).toBe(0)
  expect(containerSeconds).toBeGreaterThanOrEqual(1002)
})

test.each(['poisson', 'bursty'] as const)('%s traffic has the requested rate and is in order', (traffic) => {
  const times = drawArrivals(traffic, 2, 100_000, randomOf(1, 'rate'))
  expect(times.at(-1)).toBeGreaterThan(50_000 * 0.95)
  expect(times.at(-1)).toBeLessThan(50_000 * 1.05)
  expect(times.every((time, k) => k === 0 || time >= times[k - 1]!)).toBe(true)
})

test('equal cases have equal figures, and the cost per image falls with volume', () => {
  const base = { variant: 'large-turbo', gpu: 'H100', traffic: 'poisson', idleSeconds: 120 } as const
  const computeCost = (imagesPerDay: number) => costOf({ ...base, imagesPerDay }).dollarsPerImage
  expect(computeCost(10)).toBe(computeCost(10))
  expect(computeCost(10)).toBeGreaterThan(computeCost(10_000))
  expect(computeCost(10_000)).toBeGreaterThan(computeCost(1_000_000))
})

test('docs/cost.md equals the output of the command', async () => {
  const page = await readFile(path.join(import.meta.dirname, '../../../docs/cost.md'), 'utf8')
  expect(fillPage(page)).toBe(page)
})

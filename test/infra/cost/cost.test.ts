import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { expect, test } from 'vitest'
import { randomOf } from '../../../infra/campaign/random.ts'
import { costOf } from '../../../infra/cost/model.ts'
import { simulate } from '../../../infra/cost/simulate.ts'
import { fillPage } from '../../../infra/cost/tables.ts'
import { drawArrivals } from '../../../infra/cost/traffic.ts'
import { runChecks } from './queueing-theory.ts'

const fleet = { service: () => 2, coldSeconds: 10, idleSeconds: 60, minContainers: 0, maxContainers: 2 }
const at = (...times: number[]) => simulate(Float64Array.from(times), fleet)

test('the simulation is within 5 % of every closed form', () => {
  for (const { label, difference } of runChecks()) expect.soft(difference, label).toBeLessThan(0.05)
})

test('a picture alone pays for its start, itself and the idle window after it', () => {
  expect(at(0)).toMatchObject({ containerSeconds: 10 + 2 + 60, coldShare: 1, p50: 12, peakContainers: 1 })
})

test('one that comes within the window is warm, and one after it is cold', () => {
  expect(at(0, 40)).toMatchObject({ containerSeconds: 42 + 60, coldShare: 0.5 })
  expect(at(0, 100)).toMatchObject({ containerSeconds: 2 * 72, coldShare: 1 })
})

test('no more containers than there may be: the rest wait their turn', () => {
  const { peakContainers, p95, containerSeconds } = at(0, 0, 0, 0)
  expect(peakContainers).toBe(2)
  expect(p95).toBe(14)
  expect(containerSeconds).toBe(2 * (10 + 4 + 60))
})

test('containers that stay are paid for throughout', () => {
  const { containerSeconds, coldShare } = simulate(Float64Array.from([0, 1000]), { ...fleet, minContainers: 1 })
  expect(coldShare).toBe(0)
  expect(containerSeconds).toBeGreaterThanOrEqual(1002)
})

test.each(['poisson', 'bursty'] as const)('%s traffic has the rate it is asked for, in order', (traffic) => {
  const times = drawArrivals(traffic, 2, 100_000, randomOf(1, 'rate'))
  expect(times.at(-1)).toBeGreaterThan(50_000 * 0.95)
  expect(times.at(-1)).toBeLessThan(50_000 * 1.05)
  expect(times.every((time, k) => k === 0 || time >= times[k - 1]!)).toBe(true)
})

test('the same case gives the same figures, and pictures get cheaper with volume', () => {
  const base = { variant: 'large-turbo', gpu: 'H100', traffic: 'poisson', idleSeconds: 120 } as const
  const cost = (imagesPerDay: number) => costOf({ ...base, imagesPerDay }).dollarsPerImage
  expect(cost(10)).toBe(cost(10))
  expect(cost(10)).toBeGreaterThan(cost(10_000))
  expect(cost(10_000)).toBeGreaterThan(cost(1_000_000))
})

test('docs/cost.md is what the command makes', async () => {
  const page = await readFile(path.join(import.meta.dirname, '../../../docs/cost.md'), 'utf8')
  expect(fillPage(page)).toBe(page)
})

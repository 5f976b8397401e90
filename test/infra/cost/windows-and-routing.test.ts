import { expect, test } from 'vitest'
import { compareWindows } from '../../../infra/cost/idle.ts'
import { simulateRouting } from '../../../infra/cost/routing.ts'
import { TRAFFIC } from '../../../infra/cost/traffic.ts'

test('the adaptive idle window costs about as much as the fixed one that is best in hindsight', () => {
  for (const traffic of ['poisson', 'bursty', 'daily'] as const) {
    const rows = compareWindows(traffic, 1_000, 4_000)
    expect(rows.length).toBeGreaterThan(0)
    for (const { ratio, optimum, toDefault } of rows) {
      expect(ratio).toBeLessThan(1.15)
      expect(optimum).toBeLessThan(ratio)
      expect(optimum).toBeLessThan(1)
      expect(toDefault).toBeLessThan(1.05)
    }
  }
})

test.for(TRAFFIC)('the hint sends jobs to containers that have their model loaded: %s', (traffic) => {
  const options = { containers: 4, models: 2, load: 0.05, traffic, jobs: 2_000 }
  const [free, hint] = [simulateRouting('free', options), simulateRouting('hint', options)]
  expect(free.switches).toBeGreaterThan(0.4)
  expect(hint.switches).toBeLessThan(0.05)
  expect(hint.p95).toBeLessThan(0.2 * free.p95)
})

import { expect, test } from 'vitest'
import { runSoak } from '../../../../infra/bench/soak/soak.ts'

test('under random faults every job ends once, with the image of its seed', async () => {
  const { faults, jobs, succeeded, canceled, wrong, stuck, lost } = await runSoak({
    ...{ minutes: 0.05, faults: 10, callers: 2, seed: 3 },
  })
  expect(Object.values(faults).reduce((sum, count) => sum + count, 0)).toBe(10)
  expect({ wrong, stuck, lost }).toEqual({ wrong: [], stuck: [], lost: [] })
  expect(jobs).toBeGreaterThan(0)
  expect(succeeded + canceled).toBe(jobs)
})

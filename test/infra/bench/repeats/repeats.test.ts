import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { runRepeats } from '../../../../infra/bench/repeats/repeats.ts'
import { isReproducible } from '../../../../infra/bench/repeats/report.ts'

test('repeated images are identical under load with two tiers, an adapter and cancellations', async () => {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'octet-repeats-'))
  onTestFinished(() => rm(directory, { recursive: true }))
  const result = await runRepeats({
    ...{ model: 'tiny-small', target: 'cpu', directory, size: 64, tiers: ['fp8', 'fp8-lite'], loras: 1 },
    ...{ jobs: 16, callers: 3, requests: 4, cancels: 0.2, seed: 1 },
  })
  expect(result.images.unequal).toEqual([])
  expect(result.failures).toEqual([])
  expect(result.errors).toEqual([])
  expect(isReproducible(result)).toBe(true)
  expect(Object.values(result.ended).reduce((sum, count) => sum + count, 0)).toBe(16)
  expect(new Set(result.requests.map(({ tier }) => tier)).size).toBe(2)
  expect(result.requests.filter(({ loras }) => loras).length).toBeGreaterThan(0)
})

import { expect, test } from 'vitest'
import { drawJobs, drawRequests, sizesOf } from '../../../../infra/bench/repeats/requests.ts'
import { randomOf } from '../../../../infra/command/random.ts'

const OPTIONS = { requests: 40, size: 1024, tiers: ['fp8', 'fp8-lite'], loras: ['a', 'b'] } as const

test('requests are determined by the seed, distinct, and vary in every field', () => {
  const requests = drawRequests(OPTIONS, randomOf(1, 'requests'))
  expect(drawRequests(OPTIONS, randomOf(1, 'requests'))).toEqual(requests)
  const kindsOf = (of: (request: (typeof requests)[number]) => unknown) => new Set(requests.map(of)).size
  expect(kindsOf((request) => JSON.stringify(request))).toBe(40)
  expect(kindsOf(({ tier }) => tier)).toBe(2)
  expect(kindsOf(({ width, height }) => `${width}x${height}`)).toBe(4)
  expect(kindsOf(({ steps }) => steps)).toBe(7)
  expect(kindsOf(({ guidance_scale }) => guidance_scale)).toBe(2)
  expect(kindsOf(({ loras }) => loras?.map(({ id }) => id).join())).toBe(5)
  expect(drawRequests({ ...OPTIONS, loras: [] }, randomOf(1, 'requests')).filter(({ loras }) => loras)).toEqual([])
})

test('sizes are multiples of 16, even for a small side', () => {
  expect(sizesOf(1024).map(({ width, height }) => `${width}x${height}`)).toEqual([
    ...['1024x1024', '1024x768', '768x1024', '512x512'],
  ])
  expect(sizesOf(16).every(({ width, height }) => width === 16 && height === 16)).toBe(true)
})

test('every request recurs, and the given fraction of jobs is canceled in both ways, at random times', () => {
  const jobs = drawJobs({ jobs: 2000, requests: 24, cancels: 0.05 }, randomOf(1, 'jobs'))
  const counts = Array.from({ length: 24 }, (_, request) => jobs.filter((job) => job.request === request).length)
  expect(Math.min(...counts)).toBeGreaterThan(50)
  const canceled = jobs.flatMap(({ cancellation }) => cancellation ?? [])
  expect(canceled.length / jobs.length).toBeCloseTo(0.05, 1)
  expect(new Set(canceled.map(({ by }) => by))).toEqual(new Set(['DELETE', 'hanging up']))
  const times = canceled.map(({ at }) => at)
  expect([Math.min(...times) < 0.1, Math.max(...times) > 0.9]).toEqual([true, true])
})

import { expect, test } from 'vitest'
import { computeBytes, findFrontier, sortByEffect } from '../../../infra/sensitivity/pareto.ts'

const layers = [
  { name: 'small', error: 0.01, weights: 100 },
  { name: 'wide', error: 0.012, weights: 400 },
  { name: 'loud', error: 0.05, weights: 400 },
]

test('layers are ordered by squared error per weight', () => {
  expect(sortByEffect(layers).map(({ name }) => name)).toEqual(['loud', 'small', 'wide'])
})

test('4 bits save 15 of 32 bytes per group of 32 weights', () => {
  const ordered = sortByEffect(layers)
  expect(computeBytes(ordered, 3, 1000)).toBe(1000)
  expect(computeBytes(ordered, 2, 1000)).toBe(1000 - (400 * 15) / 32)
  expect(computeBytes(ordered, 0, 1000)).toBe(1000 - (900 * 15) / 32)
})

test('the frontier contains no dominated points', () => {
  const points = [
    { kept: 0, bytes: 1, error: 0.5 },
    { kept: 1, bytes: 2, error: 0.6 },
    { kept: 2, bytes: 3, error: 0.2 },
    { kept: 3, bytes: 4, error: 0.2 },
  ]
  expect(findFrontier(points).map(({ kept }) => kept)).toEqual([0, 2])
})

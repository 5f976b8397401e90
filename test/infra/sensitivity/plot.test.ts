import { expect, test } from 'vitest'
import { plotSvg } from '../../../infra/sensitivity/plot.ts'

const points = [
  { kept: 0, bytes: 2.1e6, error: 0.09 },
  { kept: 1, bytes: 2.4e6, error: 0.06 },
  { kept: 2, bytes: 2.7e6, error: 0.07 },
]
const svg = plotSvg({ title: 'nano', points, frontier: points.slice(0, 2), chosen: 1 })

const circles = [...svg.matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)" r="4" fill="([^"]+)"/g)].map(
  ([, x, y, fill]) => ({ x: Number(x), y: Number(y), fill }),
)

test('size increases to the right, error increases upward, and the chosen point is filled', () => {
  const [none, one, two] = circles as [(typeof circles)[0], (typeof circles)[0], (typeof circles)[0]]
  expect(none.x).toBeLessThan(one.x)
  expect(one.x).toBeLessThan(two.x)
  expect(none.y).toBeLessThan(two.y)
  expect(two.y).toBeLessThan(one.y)
  expect(circles.map(({ fill }) => fill === 'white')).toEqual([true, false, true])
})

test('the line connects the Pareto frontier, and the label describes the chosen point', () => {
  const line = /<polyline points="([^"]+)"/.exec(svg)![1]!.split(' ')
  expect(line).toEqual(circles.slice(0, 2).map(({ x, y }) => `${x},${y}`))
  expect(svg).toContain('font-weight="bold">1 in FP8: 2.4 MB, 6.00 %</text>')
})

test('all circles are within the axes, even if all sizes are equal', () => {
  const single = plotSvg({ title: 'nano', points: [points[0]!], frontier: [points[0]!], chosen: 0 })
  for (const text of [svg, single])
    for (const [, x, y] of text.matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)"/g)) {
      expect(Number(x)).toBeGreaterThanOrEqual(64)
      expect(Number(x)).toBeLessThanOrEqual(696)
      expect(Number(y)).toBeGreaterThanOrEqual(44)
      expect(Number(y)).toBeLessThanOrEqual(368)
    }
})

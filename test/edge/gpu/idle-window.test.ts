// The idle window: which one recent gaps make worthwhile.
import { describe, test } from 'vitest'
import { chooseWindow, type Gaps, NO_GAPS, recordGap, WINDOWS } from '../../../edge/gpu/idle-window.ts'

const recordGaps = (gaps: readonly number[]): Gaps => gaps.reduce(recordGap, NO_GAPS)
const repeatGaps = (count: number, seconds: number) => new Array<number>(count).fill(seconds)

describe('the idle window', () => {
  test('is the default until enough gaps are recorded', ({ expect }) => {
    expect(chooseWindow(recordGaps(repeatGaps(7, 500)), 30, 120)).toBe(120)
    expect(chooseWindow(recordGaps(repeatGaps(8, 500)), 30, 120)).toBe(2)
  })

  test('covers gaps that cost less than a start, but no longer ones', ({ expect }) => {
    expect(chooseWindow(recordGaps(repeatGaps(50, 25)), 30, 120)).toBe(30)
    expect(chooseWindow(recordGaps(repeatGaps(50, 200)), 30, 120)).toBe(2)
    expect(chooseWindow(recordGaps(repeatGaps(50, 200)), 300, 120)).toBe(240)
    expect(chooseWindow(recordGaps(repeatGaps(50, 5_000)), 300, 120)).toBe(2)
  })

  test('covers the pauses within visits, but not those between visits', ({ expect }) => {
    const visits = Array.from({ length: 20 }, () => [...repeatGaps(11, 14), 3_000]).flat()
    expect(chooseWindow(recordGaps(visits), 30, 120)).toBe(15)
    const slower = Array.from({ length: 20 }, () => [...repeatGaps(11, 40), 3_000]).flat()
    expect(chooseWindow(recordGaps(slower), 60, 120)).toBe(45)
  })

  test('adapts to a change of traffic within about fifty gaps', ({ expect }) => {
    const quiet = recordGaps(repeatGaps(200, 2_000))
    expect(chooseWindow(quiet, 60, 120)).toBe(2)
    expect(chooseWindow(repeatGaps(120, 50).reduce(recordGap, quiet), 60, 120)).toBe(60)
  })

  test('is one of the possible windows for any gaps', ({ expect }) => {
    for (const gap of [0, 0.001, 1e9, Number.MAX_VALUE])
      expect(WINDOWS).toContain(chooseWindow(recordGaps(repeatGaps(20, gap)), 30, 120))
  })
})

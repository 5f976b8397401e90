import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createExpiringMap } from '../../../../gpu-fn/server/requests/expiring-map.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

test('an entry expires a fixed time after it was last set', () => {
  const map = createExpiringMap<number>({ seconds: 10, max: 5 })
  map.set('a', 1)
  vi.advanceTimersByTime(9_999)
  expect(map.get('a')).toBe(1)
  map.set('a', 2)
  vi.advanceTimersByTime(9_999)
  expect(map.get('a')).toBe(2)
  vi.advanceTimersByTime(1)
  expect(map.get('a')).toBeUndefined()
})

test('the number of entries is limited, and the oldest are evicted first', () => {
  const map = createExpiringMap<number>({ seconds: 10, max: 3 })
  for (const key of ['a', 'b', 'c', 'a', 'd']) map.set(key, 1)
  expect(['a', 'b', 'c', 'd'].filter((key) => map.get(key) !== undefined)).toEqual(['a', 'c', 'd'])
})

import { afterEach, expect, test, vi } from 'vitest'
import { UpTime } from '../../../infra/campaign/up-time.ts'

afterEach(() => void vi.useRealTimers())

test('the clock stops during an outage and resumes afterwards, even if a restart fails', async () => {
  vi.useFakeTimers({ toFake: ['performance', 'setTimeout'] })
  const clock = new UpTime()
  const start = clock.now()
  const elapsed = () => clock.now() - start
  vi.advanceTimersByTime(1000)
  expect(elapsed()).toBe(1000)
  const outage = clock.omit(() => new Promise<void>((resolve) => setTimeout(resolve, 5000)))
  await vi.advanceTimersByTimeAsync(4000)
  expect(elapsed()).toBe(1000)
  await vi.advanceTimersByTimeAsync(1000)
  await outage
  vi.advanceTimersByTime(500)
  expect(elapsed()).toBe(1500)
  await expect(clock.omit(() => Promise.reject(new Error('no start')))).rejects.toThrow('no start')
  vi.advanceTimersByTime(500)
  expect(elapsed()).toBe(2000)
})

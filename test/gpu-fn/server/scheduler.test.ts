import { expect, test } from 'vitest'
import { createScheduler } from '../../../gpu-fn/server/scheduler.ts'

/** A scheduler whose items end when the test says so. */
function manual(capacity: number) {
  const started: string[] = []
  const ends = new Map<string, () => void>()
  const scheduler = createScheduler<string>((item) => {
    started.push(item)
    return new Promise((resolve) => ends.set(item, resolve))
  }, capacity)
  const end = async (item: string) => {
    ends.get(item)!()
    await new Promise(setImmediate)
  }
  return { scheduler, started, end }
}

test('runs one item at a time, first come first served', async () => {
  const { scheduler, started, end } = manual(2)
  for (const item of ['a', 'b', 'c']) expect(scheduler.add(item)).toBe(true)
  expect(started).toEqual(['a'])
  expect(['a', 'b', 'c'].map(scheduler.position)).toEqual([0, 1, 2])
  await end('a')
  expect(started).toEqual(['a', 'b'])
  expect(['b', 'c'].map(scheduler.position)).toEqual([0, 1])
  await end('b')
  await end('c')
  expect(started).toEqual(['a', 'b', 'c'])
  expect(scheduler.counts()).toEqual({ running: 0, queued: 0 })
})

test('refuses when the line is full and takes items again when it is not', async () => {
  const { scheduler, end } = manual(1)
  expect(['a', 'b', 'c'].map(scheduler.add)).toEqual([true, true, false])
  await end('a')
  expect(scheduler.add('c')).toBe(true)
  expect(scheduler.counts()).toEqual({ running: 1, queued: 1 })
})

test('with no places to wait, an idle scheduler still runs one', () => {
  const { scheduler } = manual(0)
  expect(['a', 'b'].map(scheduler.add)).toEqual([true, false])
})

test('removes what waits, not what runs', async () => {
  const { scheduler, started, end } = manual(3)
  for (const item of ['a', 'b', 'c']) scheduler.add(item)
  expect(scheduler.remove('b')).toBe(true)
  expect(scheduler.remove('b')).toBe(false)
  expect(scheduler.remove('a')).toBe(false)
  expect(scheduler.position('c')).toBe(1)
  await end('a')
  expect(started).toEqual(['a', 'c'])
})

test('is idle once everything has run', async () => {
  const { scheduler, end } = manual(3)
  await scheduler.idle()
  scheduler.add('a')
  scheduler.add('b')
  let idle = false
  const done = scheduler.idle().then(() => {
    idle = true
  })
  await end('a')
  expect(idle).toBe(false)
  await end('b')
  await done
  expect(idle).toBe(true)
})

import { expect, test } from 'vitest'
import { Queue } from '../../../gpu-fn/server/queue.ts'

/** A queue whose items end when the test says so. */
function manual(capacity: number) {
  const started: string[] = []
  const ends = new Map<string, () => void>()
  const queue = new Queue<string>((item) => {
    started.push(item)
    return new Promise((resolve) => ends.set(item, resolve))
  }, capacity)
  const end = async (item: string) => {
    ends.get(item)!()
    await new Promise(setImmediate)
  }
  return { queue, started, end }
}

test('runs one item at a time, first come first served', async () => {
  const { queue, started, end } = manual(2)
  for (const item of ['a', 'b', 'c']) expect(queue.add(item)).toBe(true)
  expect(started).toEqual(['a'])
  expect(['a', 'b', 'c'].map((item) => queue.position(item))).toEqual([0, 1, 2])
  await end('a')
  expect(started).toEqual(['a', 'b'])
  expect(['b', 'c'].map((item) => queue.position(item))).toEqual([0, 1])
  await end('b')
  await end('c')
  expect(started).toEqual(['a', 'b', 'c'])
  expect(queue.counts()).toEqual({ running: 0, queued: 0 })
})

test('refuses when the line is full and takes items again when it is not', async () => {
  const { queue, end } = manual(1)
  expect(['a', 'b', 'c'].map((item) => queue.add(item))).toEqual([true, true, false])
  await end('a')
  expect(queue.add('c')).toBe(true)
  expect(queue.counts()).toEqual({ running: 1, queued: 1 })
})

test('with no places to wait, an idle queue still runs one', () => {
  const { queue } = manual(0)
  expect(['a', 'b'].map((item) => queue.add(item))).toEqual([true, false])
})

test('removes what waits, not what runs', async () => {
  const { queue, started, end } = manual(3)
  for (const item of ['a', 'b', 'c']) queue.add(item)
  expect(queue.remove('b')).toBe(true)
  expect(queue.remove('b')).toBe(false)
  expect(queue.remove('a')).toBe(false)
  expect(queue.position('c')).toBe(1)
  await end('a')
  expect(started).toEqual(['a', 'c'])
})

test('is idle once everything has run', async () => {
  const { queue, end } = manual(3)
  await queue.idle()
  queue.add('a')
  queue.add('b')
  let idle = false
  const done = queue.idle().then(() => {
    idle = true
  })
  await end('a')
  expect(idle).toBe(false)
  await end('b')
  await done
  expect(idle).toBe(true)
})

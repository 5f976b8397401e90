import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createPrefetch } from '../../../gpu-fn/server/prefetch.ts'
import { pacedModel } from '../../support/engine/paced-engine.ts'

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
afterEach(() => void vi.useRealTimers())

const [first, second] = [pacedModel, { ...pacedModel, model: 'second' }]

/** A class like the real engine, so that a call without its object fails. */
class Engine {
  readonly models = [first, second]
  readonly read: string[] = []
  async prefetch({ model }: { model: string }, signal: AbortSignal): Promise<void> {
    await Promise.resolve()
    this.read.push(signal.aborted ? `${model} (ended)` : model)
  }
}

test('reads each model once, the most requested one first, after a second of idleness', async () => {
  const engine = new Engine()
  const prefetch = createPrefetch(engine)
  prefetch.requested(second)
  prefetch.idle()
  await vi.advanceTimersByTimeAsync(900)
  expect(engine.read).toEqual([])
  await vi.advanceTimersByTimeAsync(200)
  expect(engine.read).toEqual(['second', 'tiny'])
  prefetch.idle()
  await vi.advanceTimersByTimeAsync(2_000)
  expect(engine.read).toHaveLength(2)
})

test('stops when the device gets work, and continues in the next idle period', async () => {
  const engine = new Engine()
  const prefetch = createPrefetch(engine)
  prefetch.idle()
  prefetch.busy()
  await vi.advanceTimersByTimeAsync(2_000)
  expect(engine.read).toEqual([])
  prefetch.idle()
  vi.advanceTimersByTime(1_000)
  prefetch.busy()
  await vi.advanceTimersByTimeAsync(2_000)
  expect(engine.read).toEqual(['tiny (ended)'])
  prefetch.idle()
  await vi.advanceTimersByTimeAsync(2_000)
  expect(engine.read.slice(1)).toEqual(['tiny', 'second'])
})

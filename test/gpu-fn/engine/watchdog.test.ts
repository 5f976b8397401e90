import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createWatchdog, type Stall } from '../../../gpu-fn/engine/watchdog.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const SECOND = 1_000

function start(stallSeconds = 60) {
  const stalls: Stall[] = []
  const { watch } = createWatchdog(stallSeconds * SECOND, (stall) => stalls.push(stall))
  return { watch, stalls, pass: (seconds: number) => vi.advanceTimersByTime(seconds * SECOND) }
}

test('a call without a step within the limit is reported once as a stall', () => {
  const { watch, stalls, pass } = start()
  watch('run', 'cuda')
  pass(59)
  expect(stalls).toEqual([])
  pass(100)
  expect(stalls).toEqual([{ activity: 'run', silentSeconds: 60, limitSeconds: 60, longestStepSeconds: 0 }])
})

test('each step restarts the limit, and ended calls are not monitored', () => {
  const { watch, stalls, pass } = start()
  const call = watch('run', 'cuda-fp8')
  for (let step = 0; step < 10; step++) {
    pass(2)
    call.progress()
  }
  call.end()
  pass(10_000)
  expect(stalls).toEqual([])
})

test('the limit is at least 20 times the longest step so far of the same activity, including earlier calls', () => {
  const { watch, stalls, pass } = start()
  const first = watch('run', 'cuda')
  pass(10)
  first.progress()
  first.end()
  const second = watch('run', 'cuda')
  pass(199)
  expect(stalls).toEqual([])
  second.end()
  const load = watch('load', 'cuda')
  pass(5)
  load.progress()
  load.end()
  watch('run', 'cuda')
  pass(200)
  expect(stalls).toMatchObject([{ limitSeconds: 200, longestStepSeconds: 10 }])
})

test.each([
  ['load', 'cuda'],
  ['run', 'cpu'],
] as const)('the limit of a %s on %s is ten times as long', (activity, target) => {
  const { watch, stalls, pass } = start()
  watch(activity, target)
  pass(599)
  expect(stalls).toEqual([])
  pass(1)
  expect(stalls).toMatchObject([{ limitSeconds: 600 }])
})

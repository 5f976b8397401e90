import { expect, test } from 'vitest'
import { Admission } from '../../../gpu-fn/scheduler/admission.ts'
import { Demand } from '../../../gpu-fn/scheduler/demand.ts'
import { Scheduler } from '../../../gpu-fn/scheduler/scheduler.ts'
import { StepTimes } from '../../../gpu-fn/scheduler/step-times.ts'
import type { Task } from '../../../gpu-fn/scheduler/task.ts'

const AGING_MS = 10_000

const taskOf = (id: string, overrides: Partial<Task> = {}): Task => ({
  ...{ id, tenant: id[0]!, weight: 1, interactive: false, group: 'large' },
  ...{ arrived: 0, deadline: null, left: 1_000, started: false, ...overrides },
})

/** `others`: another tenant has requested the device. */
function start({ others = true } = {}) {
  const scheduler = new Scheduler({ agingMs: AGING_MS })
  const admission = new Admission(scheduler, AGING_MS)
  const submit = (task: Task, now = 0, divide?: () => Task) => {
    const refused = admission.refuse(task, 0, now, divide)
    if (!refused) scheduler.add(task)
    return refused
  }
  if (others) {
    submit(taskOf('other', { left: 4_000 }))
    scheduler.remove('other', 0)
  }
  return { scheduler, submit }
}

test('an idle device accepts a job of any size', () => {
  expect(start().submit(taskOf('a', { left: 100 * AGING_MS }))).toBeNull()
})

test('one tenant fills a share of the backlog, and jobs of others are still accepted', () => {
  const { submit } = start()
  const outcomes = Array.from({ length: 10 }, (_, i) => submit(taskOf(`a${i}`)))
  expect(outcomes.filter((refused) => refused === null)).toHaveLength(1)
  expect(outcomes.at(-1)).toMatchObject({ reason: 'backlog', retryAfterMs: expect.any(Number) })
  for (const tenant of ['b', 'c', 'd']) expect(submit(taskOf(tenant))).toBeNull()
})

test('the only tenant can fill the whole backlog', () => {
  const { submit } = start({ others: false })
  const outcomes = Array.from({ length: 10 }, (_, i) => submit(taskOf(`a${i}`)))
  expect(outcomes.filter((refused) => refused === null)).toHaveLength(8)
})

test('a heavy tenant is promised its part of the device, whatever another heavy one requests', () => {
  const { scheduler, submit } = start({ others: false })
  const used = { a: 20_000, b: 20_000, c: 100, d: 100, e: 100 }
  for (const tenant of Object.keys(used)) scheduler.usage.enter(tenant, 0)
  for (const [tenant, ms] of Object.entries(used)) scheduler.usage.charge(taskOf(tenant), ms, 0)
  expect(submit(taskOf('a1', { left: 6_000 }))).toBeNull()
  expect(submit(taskOf('a2', { left: 6_000 }))).not.toBeNull()
  expect(submit(taskOf('b1'))).toBeNull()
  // Half of the device takes 1.6 s for the excess of 0.8 s over its limit.
  expect(submit(taskOf('b2'))).toMatchObject({ retryAfterMs: 1_600 })
})

test('all accepted work together stays below the aging bound', () => {
  const { scheduler, submit } = start()
  for (let i = 0; i < 50; i++) submit(taskOf(String.fromCharCode(65 + i)))
  const work = scheduler.tasks().reduce((sum, { left }) => sum + left, 0)
  expect(work).toBeGreaterThan(0.6 * AGING_MS)
  expect(work).toBeLessThanOrEqual(0.8 * AGING_MS)
})

test('a refused job is accepted when it returns after the promised time, and a later one does not take its place', () => {
  const { scheduler, submit } = start()
  expect(submit(taskOf('a1'))).toBeNull()
  const first = submit(taskOf('a2'))!
  const second = submit(taskOf('a3'))!
  expect(first.retryAfterMs).toBeGreaterThan(0)
  expect(second.retryAfterMs).toBeGreaterThan(first.retryAfterMs!)
  scheduler.remove('a1', 500)
  expect(submit(taskOf('a4'), 500)).not.toBeNull()
  expect(submit(taskOf('a2'), first.retryAfterMs!)).toBeNull()
})

test('a promised job is accepted at its time and not before, whatever arrives in the meantime', () => {
  const { scheduler, submit } = start()
  submit(taskOf('a1'))
  const { retryAfterMs } = submit(taskOf('a2'))!
  // Room for the job before its time, on a busy device.
  scheduler.remove('a1', 500)
  expect(submit(taskOf('b1'), 500)).toBeNull()
  expect(submit(taskOf('a2'), 600)).toMatchObject({ retryAfterMs: retryAfterMs! - 600 })
  for (const id of ['c1', 'd1', 'e1']) expect(submit(taskOf(id), 700)).toBeNull()
  expect(submit(taskOf('a2'), retryAfterMs! - 10)).not.toBeNull()
  expect(submit(taskOf('a2'), retryAfterMs!)).toBeNull()
})

test('a promised job is accepted before its time on an idle device', () => {
  const { scheduler, submit } = start()
  submit(taskOf('a1'))
  expect(submit(taskOf('a2'))).not.toBeNull()
  scheduler.remove('a1', 500)
  expect(submit(taskOf('a2'), 500)).toBeNull()
})

test('demand is the share of the device that tenants request', () => {
  const demand = new Demand()
  for (let now = 0; now < 600_000; now += 1_000) demand.add(taskOf('a', { left: 300 }), now)
  demand.add(taskOf('b', { left: 10_000, interactive: true }), 600_000)
  expect(demand.shareOf(({ tenant }) => tenant === 'a', 600_000)).toBeCloseTo(0.3, 2)
  expect(demand.shareOf(({ interactive }) => interactive, 600_000)).toBeCloseTo(0.06, 2)
  expect(demand.shareOf(({ tenant }) => tenant === 'a', 720_000)).toBeCloseTo(0.15, 2)
})

test('an unclaimed promise expires', () => {
  const { scheduler, submit } = start()
  submit(taskOf('a1'))
  const { retryAfterMs } = submit(taskOf('a2'))!
  scheduler.remove('a1', 500)
  expect(submit(taskOf('a3'), retryAfterMs! * 2 + 5_000)).toBeNull()
})

test('an unattainable deadline is refused, with the time after which it is attainable, if any', () => {
  const { submit } = start()
  expect(submit(taskOf('a'))).toBeNull()
  expect(submit(taskOf('b', { deadline: 2_500 }))).toBeNull()
  expect(submit(taskOf('c', { deadline: 2_500 }))).toEqual({ reason: 'deadline', retryAfterMs: 500, takesMs: 3_000 })
  expect(submit(taskOf('d', { deadline: 900 }))).toMatchObject({ reason: 'deadline', retryAfterMs: null })
})

test('a promised job keeps its place if only several devices meet its deadline', () => {
  const { submit } = start()
  expect(submit(taskOf('a1'))).toBeNull()
  const { retryAfterMs: at } = submit(taskOf('a2'))!
  // One device ends it 200 ms late, after the job before it.
  const late = taskOf('a2', { deadline: at! + 1_800 })
  expect(submit(late, at!, () => ({ ...late, left: 900 }))).toEqual({
    ...{ reason: 'deadline', retryAfterMs: 100, takesMs: 1_900 },
  })
  const { retryAfterMs: next } = submit(taskOf('a3'), at!)!
  const other = taskOf('a3', { deadline: at! + next! + 1_800 })
  expect(submit(other, at! + next!, () => ({ ...other, left: 600 }))).toBeNull()
})

test('step times are medians by shape, scaled to sizes that have not run', () => {
  const times = new StepTimes()
  const shape = { group: 'large', pixels: 1_000_000, samples: 1, devices: 1, controls: 0 }
  expect(times.estimate(shape, 'step')).toBe(100)
  for (const ms of [400, 40, 41, 42, 43]) times.record(shape, 'step', ms)
  times.record(shape, 'encode', 20)
  times.record(shape, 'decode', 30)
  expect(times.estimate(shape, 'step')).toBe(42)
  expect(times.estimate({ ...shape, pixels: 250_000 }, 'step')).toBe(10.5)
  expect(times.estimate({ ...shape, samples: 2 }, 'step')).toBe(84)
  expect(times.estimate({ ...shape, group: 'medium' }, 'step')).toBe(100)
})

test('step times with a ControlNet have separate medians', () => {
  const times = new StepTimes()
  const plain = { group: 'large', pixels: 1_000_000, samples: 2, devices: 1, controls: 0 }
  const controlled = { ...plain, samples: 3, controls: 1 }
  times.record(plain, 'step', 80)
  expect(times.estimate(controlled, 'step')).toBe(120)
  times.record(controlled, 'step', 150)
  expect(times.estimate(plain, 'step')).toBe(80)
  // An unmeasured shape uses the nearest measurement with the same number of ControlNets.
  expect(times.estimate({ ...plain, samples: 3 }, 'step')).toBe(120)
  expect(times.estimate({ ...controlled, pixels: 500_000 }, 'step')).toBe(75)
})

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Scheduler } from '../../../gpu-fn/scheduler/scheduler.ts'
import type { Task } from '../../../gpu-fn/scheduler/task.ts'

const AGING_MS = 60_000

const taskOf = (id: string, overrides: Partial<Task> = {}): Task => ({
  ...{ id, tenant: id[0]!, weight: 1, interactive: false, group: 'large' },
  ...{ arrived: 0, deadline: null, left: 2_000, started: false, ...overrides },
})

function schedulerOf(tasks: Task[], switchMs = () => 0): Scheduler {
  const scheduler = new Scheduler({ agingMs: AGING_MS, switchMs })
  for (const task of tasks) scheduler.add(task)
  return scheduler
}

/** Runs turns of `stepMs` until no job is left or `until`; returns the end of each job. */
function run(scheduler: Scheduler, { stepMs = 100, from = 0, until = Number.POSITIVE_INFINITY } = {}) {
  const ends = new Map<string, number>()
  let now = from
  for (let task = scheduler.next(now); task && now < until; task = scheduler.next(now)) {
    now += stepMs
    scheduler.charge(task, stepMs, Math.max(0, task.left - stepMs), now)
    if (task.left > 0) continue
    scheduler.remove(task.id, now)
    ends.set(task.id, now)
  }
  return { ends, now }
}

const idsOf = (tasks: readonly Task[]) => tasks.map(({ id }) => id)

test('an interactive job preempts another before its next step, and the other one continues', () => {
  const scheduler = schedulerOf([taskOf('a')])
  run(scheduler, { until: 500 })
  scheduler.add(taskOf('b', { interactive: true, arrived: 500, left: 200 }))
  expect([...run(scheduler, { from: 500 }).ends]).toEqual([
    ['b', 700],
    ['a', 2_200],
  ])
})

test('equal jobs do not alternate: each runs to completion in order of arrival', () => {
  const { ends } = run(schedulerOf(['a', 'b', 'c'].map((id) => taskOf(id, { left: 300 }))))
  expect([...ends]).toEqual([
    ['a', 300],
    ['b', 600],
    ['c', 900],
  ])
})

test('jobs of a tenant with much recent usage come after all jobs of others, their interactive ones first', () => {
  const scheduler = schedulerOf([taskOf('a1', { left: 20_000 }), taskOf('b0'), taskOf('c0')])
  const { now } = run(scheduler)
  for (const id of ['a2', 'b1', 'c1']) scheduler.add(taskOf(id, { arrived: now }))
  for (const id of ['a3', 'b2']) scheduler.add(taskOf(id, { arrived: now, interactive: true }))
  expect(idsOf(scheduler.order(now))).toEqual(['b2', 'b1', 'c1', 'a3', 'a2'])
})

test('tenants with little usage do not make a regular one as heavy as the one with the most', () => {
  const regular = [taskOf('a1', { left: 20_000 }), taskOf('b1', { left: 6_000 })]
  const scheduler = schedulerOf([...regular, ...['c1', 'd1', 'e1', 'f1', 'g1'].map((id) => taskOf(id, { left: 100 }))])
  const { now } = run(scheduler)
  for (const task of [taskOf('a2', { arrived: now, interactive: true }), taskOf('b2', { arrived: now })])
    scheduler.add(task)
  expect(idsOf(scheduler.order(now))).toEqual(['b2', 'a2'])
})

test('a tenant that had the device to itself is heavy once others arrive', () => {
  const scheduler = schedulerOf([])
  let now = 0
  for (; now < 300_000; now += 1_000) scheduler.usage.charge(taskOf('a1'), 1_000, now)
  for (const tenant of ['b', 'c', 'd', 'e', 'f', 'g']) scheduler.usage.enter(tenant, now)
  expect([...scheduler.usage.heavyTenants(now)]).toEqual(['a'])
})

test('after some minutes without jobs, usage does not count', () => {
  const scheduler = schedulerOf([taskOf('a1', { left: 20_000 })])
  run(scheduler)
  const later = 20_000 + 20 * 60_000
  for (const id of ['a2', 'b1']) scheduler.add(taskOf(id, { arrived: later }))
  expect(idsOf(scheduler.order(later))).toEqual(['a2', 'b1'])
})

test('tenants take turns by weight', () => {
  const names = Array.from({ length: 8 }, (_, i) => i)
  const scheduler = schedulerOf([
    ...names.map((i) => taskOf(`a${i}`, { left: 100, weight: 3 })),
    ...names.map((i) => taskOf(`b${i}`, { left: 100 })),
  ])
  const first = idsOf(scheduler.order(0)).slice(0, 8)
  expect(first.filter((id) => id.startsWith('a'))).toHaveLength(6)
})

test('a job with a near deadline comes first among those of light tenants', () => {
  const scheduler = schedulerOf([taskOf('a', { interactive: true }), taskOf('b', { deadline: 10_000, left: 2_000 })])
  expect(idsOf(scheduler.order(7_000))).toEqual(['a', 'b'])
  expect(idsOf(scheduler.order(7_500))).toEqual(['b', 'a'])
})

test('a group change counts as work, so jobs of the loaded model come first unless they are far younger', () => {
  const scheduler = schedulerOf([taskOf('a', { group: 'large', left: 1_000 })], () => 500)
  scheduler.next(0)
  scheduler.add(taskOf('b', { group: 'medium' }))
  scheduler.add(taskOf('c', { group: 'large' }))
  expect(idsOf(scheduler.order(0))).toEqual(['a', 'c', 'b'])
})

test('what precedes a job is known before it is added', () => {
  const scheduler = schedulerOf([taskOf('a'), taskOf('b', { interactive: true })])
  expect(idsOf(scheduler.tasksAhead(taskOf('c'), 0))).toEqual(['b', 'a'])
  expect(idsOf(scheduler.tasksAhead(taskOf('c', { interactive: true }), 0))).toEqual(['b'])
})

test('over any arrivals whose work fits, every job ends within the aging bound and the device is never idle', () => {
  const arrival = fc.record({
    after: fc.nat(3_000),
    left: fc.integer({ min: 1, max: 60 }).map((steps) => steps * 100),
    tenant: fc.constantFrom('a', 'b', 'c'),
    interactive: fc.boolean(),
  })
  const property = fc.property(fc.array(arrival, { maxLength: 80 }), (arrivals) => {
    const scheduler = schedulerOf([])
    const ends = new Map<string, number>()
    const arrived = new Map<string, number>()
    let now = 0
    for (const [i, { after, left, ...rest }] of arrivals.entries()) {
      const at = now + after
      const before = run(scheduler, { from: now, until: at })
      for (const [id, end] of before.ends) ends.set(id, end)
      now = Math.max(at, before.now)
      const work = scheduler.tasks().reduce((sum, task) => sum + task.left, 0)
      if (work + left > 0.8 * AGING_MS) continue
      arrived.set(String(i), now)
      scheduler.add(taskOf(String(i), { ...rest, left, arrived: now }))
    }
    for (const [id, end] of run(scheduler, { from: now }).ends) ends.set(id, end)
    expect([...ends.keys()].toSorted()).toEqual([...arrived.keys()].toSorted())
    for (const [id, end] of ends) expect(end - arrived.get(id)!).toBeLessThanOrEqual(AGING_MS)
  })
  fc.assert(property)
})

test('jobs of the same lane may share a turn; those of other lanes, and overdue or urgent ones, may not', () => {
  const [a, b, c] = ['a', 'b', 'c'].map((id) => taskOf(id, { left: 1_000 })) as [Task, Task, Task]
  const turbo = taskOf('d', { interactive: true, left: 100 })
  const urgent = taskOf('e', { deadline: 1_100, left: 1_000 })
  const scheduler = schedulerOf([a, b, c, turbo, urgent])
  expect(idsOf(scheduler.tasksAlongside(a, 0))).toEqual(['b', 'c'])
  expect(scheduler.tasksAlongside(turbo, 0)).toEqual([])
  expect(scheduler.tasksAlongside(urgent, 0)).toEqual([])
  scheduler.begin(c)
  expect(c.started).toBe(true)
  expect(scheduler.tasksAlongside(a, AGING_MS)).toEqual([])
})

test('a job of a heavy tenant does not share the turns of light ones', () => {
  const scheduler = schedulerOf([taskOf('a1', { left: 20_000 }), taskOf('b0'), taskOf('c0')])
  const { now } = run(scheduler)
  const [b, c] = [taskOf('b1', { arrived: now }), taskOf('c1', { arrived: now })]
  for (const task of [taskOf('a2', { arrived: now }), b, c]) scheduler.add(task)
  expect(idsOf(scheduler.tasksAlongside(b, now))).toEqual(['c1'])
})

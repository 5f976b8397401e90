// Folding of old account rows into sums: audits stay consistent, and every table is bounded.

import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import fc from 'fast-check'
import { afterEach, describe, test, vi } from 'vitest'
import { decide } from '../../../edge/accounts/admission.ts'
import { foldOldUsage } from '../../../edge/accounts/ledger.ts'
import { settingsOf } from '../../../edge/accounts/settings.ts'
import { UNLIMITED } from '../../../edge/config/limits.ts'
import { createAdmissionError } from '../../../edge/requests/refusals.ts'
import { FULL_BYTES, USAGE_KEY_DAYS } from '../../../edge/results/retention.ts'
import { accountOf, admit, createRequest, interceptStatements, queryRows } from '../support/admissions.ts'
import { type Caller, newCaller } from '../support/client.ts'

afterEach(() => vi.restoreAllMocks())

const DAY_MS = 24 * 3600_000
const JOBS = 6

type Step =
  | { do: 'admit' | 'export' | 'forget'; job: number }
  | { do: 'settle' | 'whole life'; job: number; charged: number }
  | { do: 'age'; days: number }
  | { do: 'alarm' }
  | { do: 'evict' }

const job = fc.nat(JOBS - 1)
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ do: fc.constant('admit' as const), job }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('settle' as const), job, charged: fc.nat(100) }) },
  // Random steps rarely form a complete job life cycle.
  { weight: 3, arbitrary: fc.record({ do: fc.constant('whole life' as const), job, charged: fc.nat(100) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('export' as const), job }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('forget' as const), job }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('age' as const), days: fc.integer({ min: 1, max: 500 }) }) },
  { weight: 2, arbitrary: fc.constantFrom({ do: 'alarm' as const }, { do: 'evict' as const }) },
)

/** Expected state: each job since its last admission, the number of settlements and the total charged. */
type Model = { jobs: Map<string, 'reserved' | 'settled' | 'exported'>; settled: number; charged: number }

async function perform(caller: Caller, model: Model, step: Step): Promise<void> {
  const account = accountOf(caller)
  if (step.do === 'alarm') return void (await runDurableObjectAlarm(account))
  if (step.do === 'evict') {
    await account.totals() // Only a running object can be evicted.
    return evictDurableObject(account)
  }
  if (step.do === 'age')
    // An UPDATE would violate the primary key while only part of the rows are moved.
    return runInDurableObject(account, (_, { storage }) => {
      const usage = storage.sql.exec('SELECT * FROM usage').toArray()
      storage.sql.exec('DELETE FROM usage')
      for (const { day, ...row } of usage) {
        const earlier = new Date(Date.parse(String(day)) - step.days * DAY_MS).toISOString().slice(0, 10)
        storage.sql.exec('INSERT INTO usage VALUES (?, ?, ?, ?, ?)', earlier, ...Object.values(row))
      }
    })
  if (step.do === 'whole life') {
    for (const part of ['admit', 'settle', 'export', 'forget'] as const)
      await perform(caller, model, { ...step, do: part })
    return
  }
  const id = `job_${step.job}`
  const state = model.jobs.get(id)
  if (step.do === 'admit') {
    await admit(caller, { job: id, fingerprint: 'f' })
    if (!state) model.jobs.set(id, 'reserved')
  } else if (step.do === 'settle') {
    const { charged } = step
    await account.settle(id, charged > 0 ? { outcome: 'captured', amount: charged } : { outcome: 'released' })
    if (state !== 'reserved') return
    model.jobs.set(id, 'settled')
    model.settled += 1
    model.charged += charged
  } else if (step.do === 'export') {
    await account.exported([id])
    if (state === 'settled') model.jobs.set(id, 'exported')
  } else {
    const isForgotten = state === undefined || state === 'exported'
    if ((await account.forgetJob(id)) !== isForgotten) throw new Error(`a row that is ${state} was treated wrong`)
    if (isForgotten) model.jobs.delete(id)
  }
}

const count = async (caller: Caller, sql: string) => Number((await queryRows(caller, sql))[0]!.n)

test('after any sequence of admissions, settlements, exports and foldings, the sums match the model', {
  timeout: 120_000,
}, async ({ expect }) => {
  vi.spyOn(console, 'error').mockImplementation(() => {})
  // Only the `export` steps of the sequence confirm exports.
  vi.spyOn(env.USAGE, 'sendBatch').mockResolvedValue({ metadata: { metrics: { backlogCount: 0, backlogBytes: 0 } } })
  const property = fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 40 }), async (sequence) => {
    const caller = await newCaller()
    const model: Model = { jobs: new Map(), settled: 0, charged: 0 }
    for (const each of sequence) await perform(caller, model, each)
    const account = accountOf(caller)
    const { kept, summed } = await account.audit()
    expect(kept).toEqual(summed)
    const open = [...model.jobs.values()].filter((state) => state === 'reserved').length
    expect(kept).toEqual({ credited: 0, captured: model.charged, reserved: open * 100, open })
    const usage = await account.usage('0000-01-01', '9999-12-31')
    expect(usage.reduce((sum, { amount }) => sum + amount, 0)).toBe(model.charged)
    const folded = await count(caller, 'SELECT coalesce(sum(jobs), 0) AS n FROM folded')
    expect(folded + (await count(caller, "SELECT count(*) AS n FROM ledger WHERE state <> 'reserved'"))).toBe(
      model.settled,
    )
    const left = await queryRows(caller, 'SELECT job FROM ledger')
    expect(new Set(left.map((row) => row.job))).toEqual(new Set(model.jobs.keys()))
  })
  await fc.assert(property, { numRuns: 40 })
})

describe('usage', () => {
  test('older than 400 days is kept per tier instead of per key, and daily sums do not change', async ({ expect }) => {
    const caller = await newCaller()
    const account = accountOf(caller)
    const today = new Date().toISOString().slice(0, 10)
    const limit = new Date(Date.now() - USAGE_KEY_DAYS * DAY_MS).toISOString().slice(0, 10)
    await runInDurableObject(account, (_, { storage }) => {
      for (const [day, key, tier, jobs, amount] of [
        ['2020-01-01', 'a', 'fp8', 1, 10],
        ['2020-01-01', 'b', 'fp8', 2, 20],
        ['2020-01-01', 'a', 'fp16', 4, 40],
        ['2020-01-02', 'a', 'fp8', 8, 80],
        [limit, 'a', 'fp8', 16, 160],
        [today, 'a', 'fp8', 32, 320],
      ])
        storage.sql.exec('INSERT INTO usage VALUES (?, ?, ?, ?, ?)', day, key, tier, jobs, amount)
    })
    const expected = [
      { day: '2020-01-01', key_id: '', tier: 'fp16', jobs: 4, amount: 40 },
      { day: '2020-01-01', key_id: '', tier: 'fp8', jobs: 3, amount: 30 },
      { day: '2020-01-02', key_id: '', tier: 'fp8', jobs: 8, amount: 80 },
      { day: limit, key_id: 'a', tier: 'fp8', jobs: 16, amount: 160 },
      { day: today, key_id: 'a', tier: 'fp8', jobs: 32, amount: 320 },
    ]
    await admit(caller)
    await runDurableObjectAlarm(account)
    expect(await account.usage('0000-01-01', '9999-12-31')).toEqual(expected)
    await queryRows(caller, "INSERT INTO usage VALUES ('2020-01-01', 'c', 'fp8', 64, 640)")
    await admit(caller)
    await runDurableObjectAlarm(account)
    expect((await account.usage('2020-01-01', '2020-01-01'))[1]).toMatchObject({ key_id: '', jobs: 67, amount: 670 })
  })

  test('is found through an index, and is folded atomically even when a statement fails', async ({ expect }) => {
    const caller = await newCaller()
    await queryRows(
      caller,
      "INSERT INTO usage VALUES ('2020-01-01', 'a', 'fp8', 1, 10), ('2020-01-01', 'b', 'fp8', 1, 10)",
    )
    await runInDurableObject(accountOf(caller), (_, { storage }) => {
      const sum = () => storage.sql.exec('SELECT sum(amount) AS sum FROM usage').one().sum
      let left = 1
      const stopping = interceptStatements(storage.sql, (query, ...values) => {
        const plan = storage.sql.exec<{ detail: string }>(`EXPLAIN QUERY PLAN ${query}`, ...values).toArray()
        expect(plan.map(({ detail }) => detail).join()).toContain('usage_of_keys')
        if (left-- === 0) throw new Error('stopped')
      })
      expect(() => storage.transactionSync(() => foldOldUsage(stopping))).toThrow('stopped')
      expect(sum()).toBe(20)
      left = 9
      storage.transactionSync(() => foldOldUsage(stopping))
      expect(sum()).toBe(20)
    })
  })
})

describe('a nearly full account', () => {
  const reportSize = (sql: SqlStorage, databaseSize: number): SqlStorage =>
    new Proxy(sql, {
      get: (_, name) => {
        if (name === 'databaseSize') return databaseSize
        const value = Reflect.get(sql, name)
        return typeof value === 'function' ? value.bind(sql) : value
      },
    })

  test('rejects new jobs with a specific error, and can still settle earlier jobs', async ({ expect }) => {
    const caller = await newCaller()
    const [first, next] = [await createRequest(caller, { job: 'job_first', name: 'one' }), await createRequest(caller)]
    await runInDurableObject(accountOf(caller), (_, { storage }) => {
      const ask = (asked: typeof next, bytes: number) =>
        decide(
          reportSize(storage.sql, bytes),
          settingsOf(storage.sql, () => UNLIMITED),
          asked,
        )
      expect(ask(first, FULL_BYTES).kind).toBe('admitted')
      expect(ask(next, FULL_BYTES + 1)).toEqual({ kind: 'full' })
      expect(ask(first, FULL_BYTES + 1).kind).toBe('repeated')
    })
    expect(createAdmissionError({ kind: 'full' })).toMatchObject({ code: 'account_full' })
    expect(await accountOf(caller).settle('job_first', { outcome: 'captured' })).toMatchObject({ charged: 100 })
  })

  test('regains space after rows are folded', async ({ expect }) => {
    const caller = await newCaller()
    const measureSize = () => runInDurableObject(accountOf(caller), (_, { storage }) => storage.sql.databaseSize)
    const empty = await measureSize()
    const jobs = Array.from({ length: 200 }, (_, k) => `job_${k}`)
    for (const each of jobs) {
      await admit(caller, { job: each })
      await accountOf(caller).settle(each, { outcome: 'released' })
    }
    expect(await measureSize()).toBeGreaterThan(empty + 20_000)
    await accountOf(caller).exported(jobs)
    for (const each of jobs) await accountOf(caller).forgetJob(each)
    expect(await measureSize()).toBeLessThan(empty + 10_000)
  })
})

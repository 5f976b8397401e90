// Account balances: always credits minus captures, despite repeated calls, failures and evictions.

import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import fc from 'fast-check'
import { afterEach, describe, test, vi } from 'vitest'
import { decide } from '../../../edge/accounts/admission.ts'
import { settleOnce } from '../../../edge/accounts/ledger.ts'
import { settingsOf } from '../../../edge/accounts/settings.ts'
import { issueKey } from '../../../edge/auth/keys.ts'
import { UNLIMITED } from '../../../edge/config/limits.ts'
import { accountOf, admit, createRequest, interceptStatements, queryRows } from '../support/admissions.ts'
import { type Caller, newCaller } from '../support/client.ts'
import { peppers } from '../support/config.ts'
import { call, configure, operator } from '../support/operator.ts'

afterEach(() => vi.restoreAllMocks())

const MINUTE = 60_000

describe('repeated calls', () => {
  test('a job is reserved once and settled once, and the first settlement is final', async ({ expect }) => {
    const caller = await newCaller()
    const account = accountOf(caller)
    const twice = await createRequest(caller, { job: 'job_twice' })
    expect((await account.admit(twice)).kind).toBe('admitted')
    expect(await account.admit(twice)).toMatchObject({ kind: 'repeated', reservation: { job: 'job_twice', spec: {} } })
    expect(await account.totals()).toEqual({ reserved: 100, captured: 0 })
    const captured = await account.settle('job_twice', { outcome: 'captured', amount: 40 })
    expect(captured).toMatchObject({ state: 'captured', amount: 100, charged: 40, tier: 'fp8' })
    expect(await account.settle('job_twice', { outcome: 'captured' })).toEqual(captured)
    expect(await account.settle('job_twice', { outcome: 'released' })).toEqual(captured)
    expect(await account.admit(twice)).toMatchObject({
      kind: 'repeated',
      reservation: { job: 'job_twice', spec: null },
    })
    expect(await account.audit()).toMatchObject({ kept: { captured: 40, reserved: 0, open: 0 } })
  })

  test('a credit id is applied once; the same id with a different amount is rejected', async ({ expect }) => {
    const { account } = await newCaller()
    const path = `/v1/accounts/${account}/credits`
    const give = (amount: number) => call('POST', path, operator, { id: 'invoice-7', amount_microdollars: amount })
    expect((await give(500)).body).toMatchObject({ balance_microdollars: 500 })
    expect((await give(500)).body).toMatchObject({ balance_microdollars: 500 })
    expect(await give(600)).toMatchObject({ status: 409, body: { error: { code: 'credit_mismatch' } } })
    expect((await call('GET', `/v1/accounts/${account}`, operator)).body).toMatchObject({ balance_microdollars: 500 })
  })

  test.for([
    [101, 100],
    [-1, 0],
    [0.5, 0],
    [Number.NaN, 0],
  ])(
    'an invalid capture of %d out of 100 captures %d and is logged, so that the settlement still succeeds',
    async ([amount, charged], { expect }) => {
      const caller = await newCaller()
      const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
      await admit(caller, { job: 'job_dear' })
      const settled = await accountOf(caller).settle('job_dear', { outcome: 'captured', amount: amount! })
      expect(settled).toMatchObject({ state: 'captured', charged })
      expect(logged.mock.calls.join()).toContain('amount of a settlement is invalid')
      expect(await accountOf(caller).audit()).toMatchObject({ kept: { captured: charged, reserved: 0, open: 0 } })
    },
  )
})

/** Returns a database that fails after `n` successful statements. */
function createFailingDatabase(sql: SqlStorage, n: number): SqlStorage {
  let left = n
  return interceptStatements(sql, () => {
    if (left-- === 0) throw new Error('stopped')
  })
}

describe('interruptions', () => {
  test('a failure at any statement of an admission or a settlement rolls back all changes', async ({ expect }) => {
    const caller = await newCaller()
    const account = accountOf(caller)
    await admit(caller, { job: 'job_before' })
    const next = await createRequest(caller, { job: 'job_next', name: 'once', idempotencyKey: 'once' })
    const works: ((sql: SqlStorage) => unknown)[] = [
      (sql) =>
        decide(
          sql,
          settingsOf(sql, () => UNLIMITED),
          next,
        ),
      (sql) => settleOnce(sql, 'job_before', { outcome: 'captured' }),
    ]
    await runInDurableObject(account, (_, { storage }) => {
      const all = () =>
        ['ledger', 'meters', 'usage', 'idempotency'].map((name) => storage.sql.exec(`SELECT * FROM ${name}`).toArray())
      for (const work of works) {
        const before = all()
        let stops = 0
        const attempt = () => storage.transactionSync(() => work(createFailingDatabase(storage.sql, stops)))
        for (let done = false; !done; stops++) {
          try {
            attempt()
            done = true
          } catch (error) {
            expect(error).toMatchObject({ message: 'stopped' })
            expect(all()).toEqual(before)
          }
        }
        expect(stops).toBeGreaterThan(4)
        expect(all()).not.toEqual(before)
      }
    })
    const { kept, summed } = await account.audit()
    expect(kept).toEqual(summed)
    expect(kept).toEqual({ credited: 0, captured: 100, reserved: 100, open: 1 })
  })

  test('a reservation without a job is released, and its Idempotency-Key and job id can be reused', async ({
    expect,
  }) => {
    const caller = await newCaller()
    const account = accountOf(caller)
    const asked = { idempotencyKey: 'order', fingerprint: 'f' }
    const lost = await createRequest(caller, { job: 'job_lost', ...asked })
    await account.admit(lost)
    expect(await admit(caller, asked)).toMatchObject({ kind: 'repeated', reservation: { job: 'job_lost' } })
    const later = Date.now() + 16 * MINUTE
    vi.spyOn(Date, 'now').mockReturnValue(later)
    expect(await runDurableObjectAlarm(account)).toBe(true)
    expect(await account.entry('job_lost')).toBeNull()
    expect((await account.admit(lost)).kind).toBe('admitted')
    expect(await account.audit()).toMatchObject({
      kept: { reserved: 100, open: 1 },
      summed: { reserved: 100, open: 1 },
    })
  })
})

test('a retried request joins the open job with the same body, and no other job', async ({ expect }) => {
  const caller = await newCaller()
  const same = { fingerprint: 'same' }
  await admit(caller, { job: 'job_first', ...same })
  expect((await admit(caller, same)).kind).toBe('admitted')
  expect((await admit(caller, { fingerprint: 'other', retried: true })).kind).toBe('admitted')
  expect(await admit(caller, { ...same, retried: true })).toMatchObject({ kind: 'repeated' })
  // A second key with a budget of 0 does not join the job of the first key.
  const second = await issueKey(peppers, caller.account)
  await accountOf(caller).addKey(second.credential, { limits: { total_microdollars: 0 } })
  expect(await admit({ ...caller, key: second.key }, { ...same, retried: true })).toMatchObject({ kind: 'over_budget' })
  const done = await newCaller()
  await admit(done, { job: 'job_done', ...same })
  await accountOf(done).settle('job_done', { outcome: 'captured' })
  expect((await admit(done, { ...same, retried: true })).kind).toBe('admitted')
})

describe('a name or an Idempotency-Key', () => {
  test.for(['name', 'idempotencyKey'] as const)(
    'as %s: the first request wins, and a different body is a mismatch',
    async (by, { expect }) => {
      const caller = await newCaller()
      await admit(caller, { [by]: 'x', job: 'job_cheap', price: 1, fingerprint: 'cheap' })
      expect(await admit(caller, { [by]: 'x', price: 1000, fingerprint: 'dear' })).toMatchObject({ kind: 'mismatch' })
      // Even if the price or the route has changed, a repeated request gets the originally reserved spec.
      expect(await admit(caller, { [by]: 'x', price: 1000, fingerprint: 'cheap' })).toMatchObject({
        kind: 'repeated',
        reservation: { job: 'job_cheap', price: 1, spec: { id: 'job_cheap', price: 1 } },
      })
      expect(await accountOf(caller).totals()).toEqual({ reserved: 1, captured: 0 })
    },
  )

  test.for(['name', 'idempotencyKey'] as const)(
    'as %s: can be reused after its job fails with a retryable error',
    async (by, { expect }) => {
      const caller = await newCaller()
      const repeatAdmission = () => admit(caller, { [by]: 'x', fingerprint: 'f' })
      await admit(caller, { [by]: 'x', fingerprint: 'f', job: 'job_1' })
      await accountOf(caller).settle('job_1', { outcome: 'released', retryable: true })
      expect(await repeatAdmission()).toMatchObject({ kind: 'admitted' })
      expect(await repeatAdmission()).toMatchObject({ kind: 'repeated' })
    },
  )
})

test('exported rows are folded into sums: the audit stays consistent, and the job row is deleted', async ({
  expect,
}) => {
  const caller = await newCaller()
  const account = accountOf(caller)
  for (const job of ['job_1', 'job_2', 'job_3']) await admit(caller, { job })
  await account.settle('job_1', { outcome: 'captured', amount: 60 })
  await account.settle('job_2', { outcome: 'released' })
  expect(await account.forgetJob('job_1')).toBe(false)
  await account.exported(['job_1', 'job_2'])
  expect(await Promise.all(['job_1', 'job_2', 'job_3', 'job_4'].map((job) => account.forgetJob(job)))).toEqual([
    ...[true, true, false, true],
  ])
  expect(await queryRows(caller, 'SELECT job FROM ledger')).toEqual([{ job: 'job_3' }])
  const { kept, summed } = await account.audit()
  expect(kept).toEqual(summed)
  expect(kept).toEqual({ credited: 0, captured: 60, reserved: 100, open: 1 })
})

describe('account settings', () => {
  test('prepaid: a job is admitted only if the balance covers it in addition to open reservations', async ({
    expect,
  }) => {
    const caller = await newCaller()
    await configure(caller.account, { prepaid: true })
    const broke = { kind: 'over_budget', by: 'balance', holder: 'account', available: 0, price: 100 }
    expect(await admit(caller)).toMatchObject(broke)
    await accountOf(caller).credit('gift', 250, '')
    const kinds = [await admit(caller, { job: 'job_a' }), await admit(caller), await admit(caller)].map(
      ({ kind }) => kind,
    )
    expect(kinds).toEqual(['admitted', 'admitted', 'over_budget'])
    await accountOf(caller).settle('job_a', { outcome: 'released' })
    expect((await admit(caller)).kind).toBe('admitted')
  })

  test('account limits override the defaults of the deployment; a rejected request counts against no limit', async ({
    expect,
  }) => {
    const caller = await newCaller()
    expect((await call('GET', `/v1/accounts/${caller.account}`, operator)).body).toMatchObject({
      limits: { ...UNLIMITED, requests_per_minute: 600, concurrent_jobs: 100, daily_microdollars: 10_000_000 },
    })
    await configure(caller.account, { limits: { requests_per_minute: 60 } })
    const { body } = await configure(caller.account, { limits: { concurrent_jobs: 1 } })
    expect(body.limits).toEqual({
      ...UNLIMITED,
      requests_per_minute: 60,
      concurrent_jobs: 1,
      daily_microdollars: 10_000_000,
    })
    expect(await admit(caller)).toMatchObject({
      kind: 'admitted',
      rates: [{ holder: 'account', limit: 60, remaining: 59 }],
    })
    for (const _ of [1, 2])
      expect(await admit(caller)).toMatchObject({ kind: 'limited', by: 'concurrency', rates: [{ remaining: 59 }] })
    expect(await accountOf(caller).audit()).toMatchObject({ kept: { open: 1, reserved: 100 } })
  })

  test('a malformed setting is rejected with its name', async ({ expect }) => {
    const refused = await configure('some-account', { prepaid: 'yes' })
    expect(refused).toMatchObject({ status: 400, body: { detail: 'prepaid is "yes"; it must be true or false.' } })
    expect((await call('GET', '/v1/accounts/Not_OK', operator)).status).toBe(404)
    expect((await call('GET', '/v1/accounts/a', (await newCaller()).headers)).status).toBe(401)
  })
})

type Step =
  | { do: 'admit'; key: number; job: number; price: number; name: number | null }
  | { do: 'settle'; job: number; outcome: 'captured' | 'released'; share: number }
  | { do: 'forget' | 'export'; job: number }
  | { do: 'credit'; id: number; amount: number }
  | { do: 'evict' | 'alarm' | 'orphans' }

const small = fc.nat(7)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('admit'),
      key: fc.nat(1),
      job: small,
      price: fc.nat(50),
      name: fc.option(small),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('settle'),
      job: small,
      outcome: fc.constantFrom('captured', 'released'),
      share: fc.double({ min: 0, max: 1, noNaN: true }),
    }),
  },
  fc.record({ do: fc.constant('forget'), job: small }),
  fc.record({ do: fc.constant('credit'), id: small, amount: fc.integer({ min: -20, max: 200 }) }),
  fc.record({ do: fc.constant('export'), job: small }),
  fc.record({ do: fc.constantFrom('evict', 'alarm', 'orphans') }),
) as fc.Arbitrary<Step>

/** Performs one step on the account, as a worker or the runtime would. */
async function perform(caller: Caller, keys: string[], step: Step): Promise<void> {
  const account = accountOf(caller)
  if (step.do === 'admit') {
    const idempotencyKey = step.name === null ? null : `name-${step.name}`
    const asked = { job: `job_${step.job}`, price: step.price, fingerprint: String(step.price % 2), idempotencyKey }
    await admit({ ...caller, key: keys[step.key]! }, asked)
  } else if (step.do === 'settle') {
    const entry = await account.entry(`job_${step.job}`)
    // Up to 1.5 times the reservation: the captured amount must be capped.
    const amount = Math.floor((entry?.amount ?? 0) * step.share * 1.5)
    await account.settle(
      `job_${step.job}`,
      step.outcome === 'captured' ? { outcome: 'captured', amount } : { outcome: 'released' },
    )
  } else if (step.do === 'forget') await account.forgetJob(`job_${step.job}`)
  else if (step.do === 'export') await account.exported([`job_${step.job}`])
  else if (step.do === 'credit') await account.credit(`credit-${step.id}`, step.amount, '')
  else if (step.do === 'evict') {
    await account.totals() // Only a running object can be evicted.
    await evictDurableObject(account)
  } else {
    const clock = vi.spyOn(Date, 'now')
    if (step.do === 'orphans') clock.mockReturnValue(Date.now() + 16 * MINUTE)
    await runDurableObjectAlarm(account)
    clock.mockRestore()
  }
}

test('after any sequence of requests, settlements, credits, evictions and alarms, the sums are consistent', {
  timeout: 120_000,
}, async ({ expect }) => {
  vi.spyOn(console, 'error').mockImplementation(() => {})
  const property = fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 40 }), async (steps) => {
    const caller = await newCaller()
    const second = await issueKey(peppers, caller.account)
    await accountOf(caller).addKey(second.credential)
    for (const each of steps) await perform(caller, [caller.key, second.key], each)
    const account = accountOf(caller)
    const { kept, summed } = await account.audit()
    expect(kept).toEqual(summed)
    const view = await account.view()
    expect(view.balance).toBe(summed.credited - summed.captured)
    const usage = await account.usage('0000-01-01', '9999-12-31')
    expect(usage.reduce((sum, { amount }) => sum + amount, 0)).toBe(summed.captured)
    const keys = await Promise.all([caller.keyId, second.credential.keyId].map((id) => account.key(id)))
    for (const sum of ['captured', 'reserved', 'open'] as const)
      expect(keys.reduce((total, key) => total + key![sum], 0)).toBe(kept[sum])
  })
  await fc.assert(property, { numRuns: 40 })
})

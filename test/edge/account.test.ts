// The account's money: whatever comes twice, stops half-way or is evicted, the balance is credits less captures.
import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import fc from 'fast-check'
import { afterEach, describe, test, vi } from 'vitest'
import { jobsBefore, openBefore, settleOnce } from '../../edge/account-ledger.ts'
import { exportBatch, outboxSize } from '../../edge/account-outbox.ts'
import { settingsOf } from '../../edge/account-settings.ts'
import { type AdmissionRequest, decide, forget, IDEMPOTENCY_MS, nextExpiry, prune } from '../../edge/admission.ts'
import { JobDO } from '../../edge/job.ts'
import { checkKey, issueKey } from '../../edge/keys.ts'
import { UNLIMITED } from '../../edge/limits.ts'
import { type Caller, generate, generatedOf, ledgerOf, newCaller } from './client.ts'
import { fakeGpu, works } from './fake-gpu.ts'
import { call, configure, operator } from './operator.ts'

afterEach(() => vi.restoreAllMocks())

const accountOf = ({ account }: Caller) => env.ACCOUNT.getByName(account)
const MINUTE = 60_000
const HOUR = 60 * MINUTE
const body = { prompt: 'a cat' }
const once = { 'idempotency-key': 'order-1' }

async function request(caller: Caller, more: Partial<AdmissionRequest> = {}): Promise<AdmissionRequest> {
  const credential = (await checkKey(env.KEY_PEPPER, caller.key))!
  return { credential, job: `job_${crypto.randomUUID()}`, tier: 'fp8', price: 100, idempotency: null, ...more }
}
const admit = async (caller: Caller, more: Partial<AdmissionRequest> = {}) =>
  accountOf(caller).admit(await request(caller, more))
const rows = (caller: Caller, sql: string) =>
  runInDurableObject(accountOf(caller), (_, { storage }) => storage.sql.exec(sql).toArray())

describe('everything twice', () => {
  test('the same job is reserved once, settled once, and the first settlement stands', async ({ expect }) => {
    const caller = await newCaller()
    const account = accountOf(caller)
    const twice = await request(caller, { job: 'job_twice' })
    expect((await account.admit(twice)).kind).toBe('admitted')
    expect(await account.admit(twice)).toEqual({ kind: 'repeated', job: 'job_twice' })
    expect(await account.totals()).toEqual({ reserved: 100, captured: 0 })
    const captured = await account.settle('job_twice', { outcome: 'captured', amount: 40 })
    expect(captured).toMatchObject({ state: 'captured', amount: 100, charged: 40, tier: 'fp8' })
    expect(await account.settle('job_twice', { outcome: 'captured' })).toEqual(captured)
    expect(await account.settle('job_twice', { outcome: 'released' })).toEqual(captured)
    expect(await account.admit(twice)).toEqual({ kind: 'repeated', job: 'job_twice' })
    expect(await account.audit()).toMatchObject({ kept: { captured: 40, reserved: 0, open: 0 } })
  })

  test('credit is given once for its id; another amount under it is refused', async ({ expect }) => {
    const { account } = await newCaller()
    const path = `/v1/accounts/${account}/credits`
    const give = (amount: number) => call('POST', path, operator, { id: 'invoice-7', amount_microdollars: amount })
    expect((await give(500)).body).toMatchObject({ balance_microdollars: 500 })
    expect((await give(500)).body).toMatchObject({ balance_microdollars: 500 })
    expect(await give(600)).toMatchObject({ status: 409, body: { error: { code: 'credit_mismatch' } } })
    expect((await call('GET', `/v1/accounts/${account}`, operator)).body).toMatchObject({ balance_microdollars: 500 })
  })

  test('a capture of more than was reserved is refused, and changes nothing', async ({ expect }) => {
    const caller = await newCaller()
    await admit(caller, { job: 'job_dear' })
    await runInDurableObject(accountOf(caller), (_, { storage: { sql } }) => {
      for (const amount of [101, -1, 0.5])
        expect(() => settleOnce(sql, 'job_dear', { outcome: 'captured', amount })).toThrow(RangeError)
    })
    expect(await accountOf(caller).totals()).toEqual({ reserved: 100, captured: 0 })
  })
})

type Statement = Parameters<SqlStorage['exec']>
/** The database, where `before` sees every statement first. */
function watched(sql: SqlStorage, before: (...statement: Statement) => void): SqlStorage {
  const exec = (...statement: Statement) => {
    before(...statement)
    return sql.exec(...statement)
  }
  return new Proxy(sql, { get: (_, name) => (name === 'exec' ? exec : Reflect.get(sql, name)) })
}

/** The database until its `n`th statement, at which it fails. */
function failingAt(sql: SqlStorage, n: number): SqlStorage {
  let left = n
  return watched(sql, () => {
    if (left-- === 0) throw new Error('stopped')
  })
}

describe('stopped half-way', () => {
  test('at any statement of an admission or a settlement, nothing has changed', async ({ expect }) => {
    const caller = await newCaller()
    const account = accountOf(caller)
    await admit(caller, { job: 'job_before' })
    const next = await request(caller, { job: 'job_next', idempotency: { name: 'once', fingerprint: 'f' } })
    const works: ((sql: SqlStorage) => unknown)[] = [
      (sql) => decide(sql, settingsOf(sql, {}), next),
      (sql) => settleOnce(sql, 'job_before', { outcome: 'captured' }),
    ]
    await runInDurableObject(account, (_, { storage }) => {
      const all = () =>
        ['ledger', 'meters', 'usage', 'idempotency'].map((name) => storage.sql.exec(`SELECT * FROM ${name}`).toArray())
      for (const work of works) {
        const before = all()
        let stops = 0
        const attempt = () => storage.transactionSync(() => work(failingAt(storage.sql, stops)))
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

  test('a reservation without a job is released, and its Idempotency-Key and its id are free again', async ({
    expect,
  }) => {
    const caller = await newCaller()
    const account = accountOf(caller)
    const lost = await request(caller, { job: 'job_lost', idempotency: { name: 'order', fingerprint: 'f' } })
    await account.admit(lost)
    expect(await account.admit({ ...lost, job: 'job_retry' })).toEqual({ kind: 'repeated', job: 'job_lost' })
    const later = Date.now() + 16 * MINUTE
    vi.spyOn(Date, 'now').mockReturnValue(later)
    expect(await runDurableObjectAlarm(account)).toBe(true)
    expect(await account.entry('job_lost')).toMatchObject({ state: 'released', charged: 0 })
    expect((await account.admit(lost)).kind).toBe('admitted')
    expect(await account.audit()).toMatchObject({
      kept: { reserved: 100, open: 1 },
      summed: { reserved: 100, open: 1 },
    })
  })
})

/** A request that reserved, for which the worker then created no job. */
async function orphaned(caller: Caller): Promise<string> {
  const create = vi.spyOn(JobDO.prototype, 'create').mockRejectedValue(new Error('the worker dies'))
  await generate(caller, body, once)
  create.mockRestore()
  const [job] = (await accountOf(caller).recentJobs(1))!
  return job!
}

describe('a reservation that nobody took up', () => {
  test('is released together with its Idempotency-Key, so that the retry is a job of its own and paid', async ({
    expect,
  }) => {
    const caller = await newCaller()
    fakeGpu(works)
    const job = await orphaned(caller)
    await rows(caller, `UPDATE ledger SET reserved = reserved - ${HOUR}`)
    await runDurableObjectAlarm(accountOf(caller))
    expect(await accountOf(caller).entry(job)).toMatchObject({ state: 'released' })
    expect(await rows(caller, 'SELECT * FROM idempotency')).toEqual([])
    const { octet } = await generatedOf(await generate(caller, body, once))
    expect(octet.job).not.toBe(job)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: octet.price_microdollars })
  })

  test('and was released while its Idempotency-Key stayed, is reserved again under a new job', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    const job = await orphaned(caller)
    await accountOf(caller).settle(job, { outcome: 'released' })
    const { octet } = await generatedOf(await generate(caller, body, once))
    expect(octet.job).not.toBe(job)
    expect(await env.JOB.getByName(job).view()).toBeNull()
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: octet.price_microdollars })
    expect((await generatedOf(await generate(caller, body, once))).octet.job).toBe(octet.job)
  })

  test('until a repeated request takes it up, even while the alarm looks for its job, is not released', async ({
    expect,
  }) => {
    const caller = await newCaller()
    const named = await request(caller, { job: 'job_named', idempotency: { name: 'order', fingerprint: 'f' } })
    const retried = await request(caller, { job: 'job_retried', body: { fingerprint: 'same', retried: true } })
    for (const [first, repeat] of [
      [named, { ...named, job: 'job_other' }],
      [retried, { ...retried, job: 'job_another' }],
    ] as const) {
      await accountOf(caller).admit(first)
      await rows(caller, `UPDATE ledger SET reserved = reserved - ${HOUR} WHERE job = '${first.job}'`)
      const jobs: { view(): unknown } = JobDO.prototype
      const view = vi.spyOn(jobs, 'view').mockImplementationOnce(async () => {
        expect(await accountOf(caller).admit(repeat)).toEqual({ kind: 'repeated', job: first.job })
        return null
      })
      await runDurableObjectAlarm(accountOf(caller))
      expect(view).toHaveBeenCalledOnce()
      view.mockRestore()
      expect(await accountOf(caller).entry(first.job)).toMatchObject({ state: 'reserved' })
    }
  })

  test('is not given up on request while its price is held', async ({ expect }) => {
    const caller = await newCaller()
    const account = accountOf(caller)
    await admit(caller, { job: 'job_held' })
    expect(await account.forget('job_held')).toBe(false)
    await account.settle('job_held', { outcome: 'captured' })
    expect(await account.forget('job_held')).toBe(false)
    expect(await account.totals()).toEqual({ reserved: 0, captured: 100 })
  })
})

describe('the alarm', () => {
  test('forgets an Idempotency-Key after a day and not before, and stands as long as there is one', async ({
    expect,
  }) => {
    const caller = await newCaller()
    fakeGpu(works)
    await generate(caller, body, once)
    await generate(caller, body, { 'idempotency-key': 'order-2' })
    await rows(caller, `UPDATE idempotency SET created = created - ${24 * HOUR} WHERE name = 'order-1'`)
    await runDurableObjectAlarm(accountOf(caller))
    expect(await rows(caller, 'SELECT name FROM idempotency')).toEqual([{ name: 'order-2' }])
    await rows(caller, `UPDATE idempotency SET created = created - ${24 * HOUR}`)
    expect(await runDurableObjectAlarm(accountOf(caller))).toBe(true)
    expect(await rows(caller, 'SELECT name FROM idempotency')).toEqual([])
    expect(await runDurableObjectAlarm(accountOf(caller))).toBe(false)
  })

  test('far off does not put off the look for orphans', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    await generate(caller, body, once)
    await runDurableObjectAlarm(accountOf(caller))
    const alarm = () => runInDurableObject(accountOf(caller), (_, { storage }) => storage.getAlarm())
    const far = (await alarm())!
    await admit(caller)
    expect(await alarm()).toBeLessThan(far)
  })
})

test('what the account looks up goes through an index', async ({ expect }) => {
  const caller = await newCaller()
  const next = await request(caller, { job: 'job_next', idempotency: { name: 'order', fingerprint: 'f' } })
  const plans: string[] = []
  await runInDurableObject(accountOf(caller), async (_, { storage }) => {
    const sql = watched(storage.sql, (query, ...values) => {
      const plan = storage.sql.exec<{ detail: string }>(`EXPLAIN QUERY PLAN ${query}`, ...values).toArray()
      plans.push(...plan.map(({ detail }) => `${detail}: ${query}`))
    })
    const settings = settingsOf(sql, {})
    for (const _ of ['admitted', 'repeated']) decide(sql, settings, next)
    decide(sql, settings, { ...next, idempotency: null, body: { fingerprint: 'same', retried: true } })
    openBefore(sql, 0)
    jobsBefore(sql, 5, 'job_next')
    settleOnce(sql, 'job_next', { outcome: 'released' })
    forget(sql, 'job_next')
    outboxSize(sql)
    await exportBatch(sql, env, { account: caller.account, stripe_customer: null })
    prune(sql)
    nextExpiry(sql)
  })
  expect(plans.length).toBeGreaterThan(10)
  expect(plans.filter((plan) => /^SCAN (ledger|meters|idempotency)\b(?!.* ledger_outbox)/.test(plan))).toEqual([])
})

test('an Idempotency-Key holds for a day', async ({ expect }) => {
  const caller = await newCaller()
  const idempotency = { name: 'daily', fingerprint: 'f' }
  await admit(caller, { job: 'job_first', idempotency })
  expect(await admit(caller, { idempotency: { ...idempotency, fingerprint: 'g' } })).toEqual({ kind: 'mismatch' })
  const later = Date.now() + IDEMPOTENCY_MS
  vi.spyOn(Date, 'now').mockReturnValue(later)
  expect((await admit(caller, { idempotency: { ...idempotency, fingerprint: 'g' } })).kind).toBe('admitted')
})

test('a retried request joins the open job of the same body, and no other', async ({ expect }) => {
  const caller = await newCaller()
  const body = { fingerprint: 'same', retried: false }
  await admit(caller, { job: 'job_first', body })
  expect((await admit(caller, { body })).kind).toBe('admitted')
  expect((await admit(caller, { body: { fingerprint: 'other', retried: true } })).kind).toBe('admitted')
  expect(await admit(caller, { body: { ...body, retried: true } })).toEqual({
    kind: 'repeated',
    job: expect.any(String),
  })
  const done = await newCaller()
  await admit(done, { job: 'job_done', body })
  await accountOf(done).settle('job_done', { outcome: 'captured' })
  expect((await admit(done, { body: { ...body, retried: true } })).kind).toBe('admitted')
})

describe('what an account may', () => {
  test('prepaid: only what the balance covers beside open reservations', async ({ expect }) => {
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

  test('its own limits, until then those of the deployment; a refusal costs nothing', async ({ expect }) => {
    const caller = await newCaller()
    expect((await call('GET', `/v1/accounts/${caller.account}`, operator)).body).toMatchObject({
      limits: { ...UNLIMITED, requests_per_minute: 600, concurrent_jobs: 100 },
    })
    await configure(caller.account, { limits: { requests_per_minute: 60, concurrent_jobs: 1 } })
    expect(await admit(caller)).toMatchObject({
      kind: 'admitted',
      rates: [{ holder: 'account', limit: 60, remaining: 59 }],
    })
    for (const _ of [1, 2])
      expect(await admit(caller)).toMatchObject({ kind: 'limited', by: 'concurrency', rates: [{ remaining: 59 }] })
    expect(await accountOf(caller).audit()).toMatchObject({ kept: { open: 1, reserved: 100 } })
  })

  test('is refused by name when it is malformed', async ({ expect }) => {
    const refused = await configure('some-account', { prepaid: 'yes' })
    expect(refused).toMatchObject({ status: 400, body: { detail: 'prepaid is "yes"; it must be true or false.' } })
    expect((await call('GET', '/v1/accounts/Not_OK', operator)).status).toBe(404)
    expect((await call('GET', '/v1/accounts/a', (await newCaller()).headers)).status).toBe(401)
  })
})

type Step =
  | { do: 'admit'; key: number; job: number; price: number; name: number | null }
  | { do: 'settle'; job: number; outcome: 'captured' | 'released'; share: number }
  | { do: 'forget'; job: number }
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
  fc.record({ do: fc.constantFrom('evict', 'alarm', 'orphans') }),
) as fc.Arbitrary<Step>

/** Does one step to the account, as a worker or the runtime would. */
async function perform(caller: Caller, keys: string[], step: Step): Promise<void> {
  const account = accountOf(caller)
  if (step.do === 'admit') {
    const idempotency = step.name === null ? null : { name: `name-${step.name}`, fingerprint: String(step.price % 2) }
    const more = { job: `job_${step.job}`, price: step.price, idempotency }
    await account.admit(await request({ ...caller, key: keys[step.key]! }, more))
  } else if (step.do === 'settle') {
    const entry = await account.entry(`job_${step.job}`)
    const amount = Math.floor((entry?.amount ?? 0) * step.share)
    await account.settle(
      `job_${step.job}`,
      step.outcome === 'captured' ? { outcome: 'captured', amount } : { outcome: 'released' },
    )
  } else if (step.do === 'forget') await account.forget(`job_${step.job}`)
  else if (step.do === 'credit') await account.credit(`credit-${step.id}`, step.amount, '')
  else if (step.do === 'evict') {
    await account.totals() // An object that does not run cannot be evicted.
    await evictDurableObject(account)
  } else {
    const clock = vi.spyOn(Date, 'now')
    if (step.do === 'orphans') clock.mockReturnValue(Date.now() + 16 * MINUTE)
    await runDurableObjectAlarm(account)
    clock.mockRestore()
  }
}

test('after any sequence of requests, settlements, credits, evictions and alarms the sums close', {
  timeout: 120_000,
}, async ({ expect }) => {
  vi.spyOn(console, 'error').mockImplementation(() => {})
  const property = fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 40 }), async (steps) => {
    const caller = await newCaller()
    const second = await issueKey(env.KEY_PEPPER, caller.account)
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

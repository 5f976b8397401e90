// What an account lets go of by itself: reservations that nobody took up, and Idempotency-Keys of yesterday.
import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { jobsBefore, openBefore, settleOnce } from '../../edge/account-ledger.ts'
import { exportBatch, nextExport, takeOut } from '../../edge/account-outbox.ts'
import { settingsOf } from '../../edge/account-settings.ts'
import { decide, forget, IDEMPOTENCY_MS, nextExpiry, prune } from '../../edge/admission.ts'
import { JobDO } from '../../edge/job.ts'
import { accountOf, admit, request, rows, watched } from './admissions.ts'
import { type Caller, generate, generatedOf, ledgerOf, newCaller } from './client.ts'
import { fakeGpu, works } from './fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const body = { prompt: 'a cat' }
const once = { 'idempotency-key': 'order-1' }

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
    await vi.waitFor(async () => expect(await runDurableObjectAlarm(accountOf(caller))).toBe(false), 5000)
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
    await exportBatch(sql, env, { account: caller.account, stripe_customer: null }, HOUR)
    nextExport(sql)
    takeOut(sql, ['job_next'])
    prune(sql)
    nextExpiry(sql)
  })
  expect(plans.length).toBeGreaterThan(10)
  expect(
    plans.filter((plan) => /^SCAN (ledger|meters|idempotency|usage_outbox)\b(?!.*INDEX usage_outbox_due)/.test(plan)),
  ).toEqual([])
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

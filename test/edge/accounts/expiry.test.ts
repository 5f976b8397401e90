// Automatic expiry in an account: reservations without a job, and Idempotency-Keys older than a day.

import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { decide, dropOrphan, findNextExpiry, IDEMPOTENCY_MS, permit, prune } from '../../../edge/accounts/admission.ts'
import { foldRow, openBefore, selectJobsBefore, settleOnce } from '../../../edge/accounts/ledger.ts'
import { settingsOf } from '../../../edge/accounts/settings.ts'
import { openUsageOutbox, removeFromOutbox } from '../../../edge/accounts/usage-outbox.ts'
import { UNLIMITED } from '../../../edge/config/limits.ts'
import { JobDO } from '../../../edge/jobs/job.ts'
import { accountOf, admit, createRequest, interceptStatements, queryRows } from '../support/admissions.ts'
import { type Caller, generate, generatedOf, ledgerOf, newCaller } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { jobOf, reservationOf, reserveJob, waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const body = { prompt: 'a cat' }
const once = { 'idempotency-key': 'order-1' }

/** Reserves a price and simulates a worker crash before the job is created; returns the job id. */
async function createOrphan(caller: Caller): Promise<string> {
  const create = vi.spyOn(JobDO.prototype, 'run').mockRejectedValue(new Error('the worker is terminated'))
  await generate(caller, body, once)
  create.mockRestore()
  const [job] = (await accountOf(caller).recentJobs(1))!
  return job!.id
}

describe('a reservation without a job', () => {
  test('is released together with its Idempotency-Key, so that a retry creates and pays for a new job', async ({
    expect,
  }) => {
    const caller = await newCaller()
    fakeGpu(works)
    const job = await createOrphan(caller)
    await queryRows(caller, `UPDATE ledger SET reserved = reserved - ${HOUR}`)
    await runDurableObjectAlarm(accountOf(caller))
    expect(await accountOf(caller).entry(job)).toBeNull()
    expect(await queryRows(caller, 'SELECT * FROM idempotency')).toEqual([])
    const { octet } = await generatedOf(await generate(caller, body, once))
    expect(octet.job).not.toBe(job)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: octet.price_microdollars })
  })

  test('is kept if a repeated request claims it, even while the alarm checks for its job', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    const keyed = { fingerprint: 'f', idempotencyKey: 'order' }
    const retried = { fingerprint: 'same', retried: true }
    for (const asked of [keyed, retried]) {
      const first = await createRequest(caller, asked)
      const { id } = first.spec
      await accountOf(caller).admit(first)
      await queryRows(caller, `UPDATE ledger SET reserved = reserved - ${HOUR} WHERE job = '${id}'`)
      const jobs: { preclude(reservedAt: number): Promise<boolean> } = JobDO.prototype
      const { preclude } = jobs
      const check = vi.spyOn(jobs, 'preclude').mockImplementationOnce(async function (this: JobDO, reservedAt) {
        expect(await admit(caller, asked)).toMatchObject({ kind: 'repeated', reservation: { job: id } })
        return preclude.call(this, reservedAt)
      })
      await runDurableObjectAlarm(accountOf(caller))
      expect(check).toHaveBeenCalledOnce()
      check.mockRestore()
      expect(await accountOf(caller).entry(id)).toMatchObject({ state: 'reserved' })
      expect(await jobOf({ id }).create({ ...reservationOf(first.spec), reservedAt: Date.now() })).toMatchObject({ id })
      await waitForEnd({ id })
    }
  })

  test('gets no job after its release, even if the clock of the account was ahead and the request is still in progress', async ({
    expect,
  }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    const spec = await reserveJob(caller)
    const clock = vi.spyOn(Date, 'now').mockReturnValue(Date.now() + HOUR)
    await runDurableObjectAlarm(accountOf(caller))
    clock.mockRestore()
    expect(await accountOf(caller).entry(spec.id)).toBeNull()
    expect(await jobOf(spec).create(reservationOf(spec))).toBeNull()
    expect(await jobOf(spec).view()).toBeNull()
    expect(calls).toEqual([])
    // The mark is removed later.
    expect(await runDurableObjectAlarm(jobOf(spec))).toBe(true)
  })
})

describe('the alarm', () => {
  test('deletes each Idempotency-Key after a day, and is rescheduled until none is left', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    await generate(caller, body, once)
    await generate(caller, body, { 'idempotency-key': 'order-2' })
    await queryRows(caller, `UPDATE idempotency SET created = created - ${24 * HOUR} WHERE name = 'order-1'`)
    await runDurableObjectAlarm(accountOf(caller))
    expect(await queryRows(caller, 'SELECT name FROM idempotency')).toEqual([{ name: 'order-2' }])
    await queryRows(caller, `UPDATE idempotency SET created = created - ${24 * HOUR}`)
    expect(await runDurableObjectAlarm(accountOf(caller))).toBe(true)
    expect(await queryRows(caller, 'SELECT name FROM idempotency')).toEqual([])
    await vi.waitFor(async () => expect(await runDurableObjectAlarm(accountOf(caller))).toBe(false), 5000)
  })

  test('is moved forward when a new reservation needs an earlier orphan check', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    await generate(caller, body, once)
    await runDurableObjectAlarm(accountOf(caller))
    const readAlarm = () => runInDurableObject(accountOf(caller), (_, { storage }) => storage.getAlarm())
    const far = (await readAlarm())!
    await admit(caller)
    expect(await readAlarm()).toBeLessThan(far)
  })
})

test('the SQL statements of the account use indexes', async ({ expect }) => {
  const caller = await newCaller()
  const next = await createRequest(caller, {
    job: 'job_next',
    name: 'order',
    idempotencyKey: 'order',
    fingerprint: 'f',
  })
  const plans: string[] = []
  await runInDurableObject(accountOf(caller), async (_, { storage }) => {
    const sql = interceptStatements(storage.sql, (query, ...values) => {
      const plan = storage.sql.exec<{ detail: string }>(`EXPLAIN QUERY PLAN ${query}`, ...values).toArray()
      plans.push(...plan.map(({ detail }) => `${detail}: ${query}`))
    })
    const settings = settingsOf(sql, () => UNLIMITED)
    for (const _ of ['admitted', 'repeated']) decide(sql, settings, next)
    const other = await createRequest(caller, { fingerprint: 'same', retried: true, reuse: true })
    permit(sql, settings, { ...other, name: null, price: 1 })
    decide(sql, settings, other)
    openBefore(sql, 0)
    selectJobsBefore(sql, 5, 'job_next')
    settleOnce(sql, 'job_next', { outcome: 'released' })
    dropOrphan(sql, other.spec.id)
    foldRow(sql, 'job_next')
    const outbox = openUsageOutbox(sql, env, () => ({ account: caller.account, stripe_customer: null }), HOUR)
    await outbox.run(Date.now() + HOUR)
    outbox.nextRun()
    removeFromOutbox(sql, ['job_next'])
    prune(sql)
    findNextExpiry(sql)
  })
  expect(plans.length).toBeGreaterThan(10)
  expect(
    plans.filter((plan) => /^SCAN (ledger|meters|idempotency|usage_outbox)\b(?!.*INDEX usage_outbox_due)/.test(plan)),
  ).toEqual([])
})

test('an Idempotency-Key is valid for a day', async ({ expect }) => {
  const caller = await newCaller()
  await admit(caller, { idempotencyKey: 'daily', fingerprint: 'f' })
  const other = { idempotencyKey: 'daily', fingerprint: 'g' }
  expect(await admit(caller, other)).toEqual({ kind: 'mismatch', by: 'Idempotency-Key' })
  const later = Date.now() + IDEMPOTENCY_MS
  vi.spyOn(Date, 'now').mockReturnValue(later)
  expect((await admit(caller, other)).kind).toBe('admitted')
})

// What the account keeps for a while: reservations that nobody took up, and Idempotency-Keys.
import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { JobDO } from '../../edge/job.ts'
import { newJobId } from '../../edge/job-record.ts'
import { checkKey } from '../../edge/keys.ts'
import { type Caller, generate, generatedOf, ledgerOf, newCaller } from './client.ts'
import { fakeGpu, works } from './fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const HOUR = 3_600_000
const body = { prompt: 'a cat' }
const once = { 'idempotency-key': 'order-1' }
const accountOf = ({ account }: Caller) => env.ACCOUNT.getByName(account)
const admission = async (caller: Caller, job: string) => ({
  credential: (await checkKey(env.KEY_PEPPER, caller.key))!,
  job,
  price: 1234,
  idempotency: { name: 'order-1', fingerprint: 'f' },
})
const rows = (caller: Caller, sql: string) =>
  runInDurableObject(accountOf(caller), (_, { storage }) => storage.sql.exec(sql).toArray())

/** A request that reserved, for which the worker then created no job. */
async function orphaned(caller: Caller): Promise<string> {
  const create = vi.spyOn(JobDO.prototype, 'create').mockRejectedValue(new Error('the worker dies'))
  await generate(caller, body, once)
  create.mockRestore()
  const [job] = await accountOf(caller).recentJobs(1)
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
    await accountOf(caller).settle(job, 'released')
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
    const job = newJobId()
    const request = await admission(caller, job)
    await accountOf(caller).admit(request)
    await rows(caller, `UPDATE ledger SET reserved = reserved - ${HOUR}`)
    const jobs: { view(): unknown } = JobDO.prototype
    const view = vi.spyOn(jobs, 'view').mockImplementationOnce(async () => {
      await accountOf(caller).admit({ ...request, job: newJobId() })
      return null
    })
    await runDurableObjectAlarm(accountOf(caller))
    expect(view).toHaveBeenCalledOnce()
    expect(await accountOf(caller).entry(job)).toMatchObject({ state: 'reserved' })
  })
})

describe('an Idempotency-Key', () => {
  test('is forgotten after a day and not before; the alarm stands as long as there is one', async ({ expect }) => {
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

  test('far from its end does not put off the look for orphans', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    await generate(caller, body, once)
    await runDurableObjectAlarm(accountOf(caller))
    const alarm = () => runInDurableObject(accountOf(caller), (_, { storage }) => storage.getAlarm())
    const far = (await alarm())!
    await generate(caller, body)
    expect(await alarm()).toBeLessThan(far)
  })
})

test('what the account looks up goes through an index', async ({ expect }) => {
  const caller = await newCaller()
  const queries = [
    ["SELECT job FROM ledger WHERE state = 'reserved' AND reserved <= 1", 'ledger_open'],
    ['SELECT job FROM ledger ORDER BY reserved DESC, rowid DESC LIMIT 5', 'ledger_by_reserved'],
    ["DELETE FROM idempotency WHERE job = 'x'", 'idempotency_by_job'],
    ['DELETE FROM idempotency WHERE created <= 1', 'idempotency_by_created'],
  ] as const
  for (const [query, index] of queries) {
    const [plan] = await rows(caller, `EXPLAIN QUERY PLAN ${query}`)
    expect(plan?.detail).toContain(index)
  }
})

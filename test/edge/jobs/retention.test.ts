// How long jobs are kept: a week longer than their images. Then files, log, record, webhook events and the row in the ledger are deleted.
import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import { AccountDO } from '../../../edge/accounts/account.ts'
import type { JobRecord } from '../../../edge/jobs/record.ts'
import { computeRetentionEnd, RECORD_DAYS, RETENTION_DAYS } from '../../../edge/results/retention.ts'
import { WebhookDO } from '../../../edge/webhooks/webhook-object.ts'
import { accountOf, queryRows } from '../support/admissions.ts'
import { type Caller, fetchWorker, filesOf, readJob, send } from '../support/client.ts'
import {
  type Behavior,
  createAccepted,
  createImage,
  createStarted,
  createSteps,
  encodeLine,
  fakeGpu,
  stream,
  untilCanceled,
  works,
} from '../support/fake-gpu.ts'
import { jobOf, waitForEnd } from '../support/jobs.ts'
import { newManager, outboxOf, waitForDeliveries } from '../support/manager.ts'
import { fakeReceiver, RECEIVER } from '../support/receiver.ts'

const DAY_MS = 24 * 3600_000
let owner: Caller
beforeEach(async () => {
  owner = await newManager()
})
afterEach(() => vi.restoreAllMocks())

/** Stores an image, then fails for good. */
const failsHalfWay: Behavior = async (seen) =>
  stream([
    ...[
      createAccepted(seen),
      createStarted(seen),
      ...createSteps(1, seen.request.steps),
      ...(await createImage(seen, 0)),
    ],
    encodeLine({ type: 'failed', code: 'invalid_request', message: 'This cannot be made.' }),
  ])

const put = (name: string) =>
  send(
    'PUT',
    `/v1/jobs/${name}`,
    owner,
    { prompt: 'a cat', n: 2, webhook: `${RECEIVER}/in` },
    { 'idempotency-key': name },
  )

/** A job that has ended in this state, is settled and announced, and whose webhook was delivered. */
async function createEndedJob(state: 'succeeded' | 'failed' | 'canceled', name = 'order'): Promise<JobRecord> {
  fakeGpu({ succeeded: works, failed: failsHalfWay, canceled: untilCanceled(2) }[state])
  fakeReceiver()
  const { id } = await readJob(await put(name))
  if (state === 'canceled') {
    await vi.waitFor(async () => {
      if ((await jobOf({ id }).view())?.state !== 'running') throw new Error('not running yet')
    })
    await fetchWorker(`/v1/jobs/${id}`, { method: 'DELETE', headers: owner.headers })
  }
  const job = await waitForEnd({ id })
  await waitForDeliveries(owner)
  return job
}

const markExported = (job: JobRecord) => accountOf(owner).exported([job.id])

/** Moves a job back in time. */
const moveBack = (job: JobRecord, days: number) =>
  runInDurableObject(jobOf(job), (_, { storage }) => {
    const record = storage.kv.get<JobRecord>('job')!
    storage.kv.put('job', { ...record, finished: record.finished! - days * DAY_MS })
  })
const expire = (job: JobRecord) => moveBack(job, job.retentionDays + RECORD_DAYS)

const alarmOf = (job: JobRecord) => runInDurableObject(jobOf(job), (_, { storage }) => storage.getAlarm())

/** Everything in a job's object. */
const listStored = (job: JobRecord) =>
  runInDurableObject(jobOf(job), async (_, { storage }) => ({
    values: [...storage.kv.list()].length,
    tables: storage.sql.exec("SELECT name FROM sqlite_schema WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'").toArray(),
    alarm: await storage.getAlarm(),
  }))
const NOTHING = { values: 0, tables: [], alarm: null }

const listEvents = () =>
  runInDurableObject(outboxOf(owner), (_, { storage }) =>
    ['events', 'deliveries', 'attempts'].map((table) => storage.sql.exec(`SELECT * FROM ${table}`).toArray().length),
  )

describe.for(['succeeded', 'failed', 'canceled'] as const)('a job that has %s', (state) => {
  test('is deleted a week after its images: files, object, events and row; the audit still balances', async ({
    expect,
  }) => {
    const job = await createEndedJob(state)
    expect(job.state).toBe(state)
    expect(await alarmOf(job)).toBe(computeRetentionEnd(job))
    expect(await listEvents()).toEqual([1, 1, 1])
    // A file of another attempt, without a record.
    await env.RESULTS.put(`results/30d/${owner.account}/${job.id}/7.png`, 'stray')
    await markExported(job)
    const before = await accountOf(owner).audit()
    await moveBack(job, job.retentionDays + RECORD_DAYS - 1)
    await runDurableObjectAlarm(jobOf(job))
    expect(await jobOf(job).view()).toMatchObject({ state })

    await moveBack(job, 1)
    expect(await runDurableObjectAlarm(jobOf(job))).toBe(true)
    expect(await listStored(job)).toEqual(NOTHING)
    expect(await filesOf(owner)).toEqual([])
    expect(await listEvents()).toEqual([0, 0, 0])
    expect(await queryRows(owner, 'SELECT * FROM ledger')).toEqual([])
    const after = await accountOf(owner).audit()
    expect(after.kept).toEqual(after.summed)
    expect(after.kept).toEqual(before.kept)
    for (const path of [job.id, 'order', `${job.id}/events`, `${job.id}/receipts`])
      expect((await fetchWorker(`/v1/jobs/${path}`, { headers: owner.headers })).status, path).toBe(404)
  })

  test('releases its name and its Idempotency-Key', async ({ expect }) => {
    const job = await createEndedJob(state)
    await markExported(job)
    await expire(job)
    await runDurableObjectAlarm(jobOf(job))
    const next = await createEndedJob('succeeded')
    expect([next.name, next.id === job.id]).toEqual(['order', false])
    expect((await accountOf(owner).audit()).kept).toMatchObject({ open: 0 })
  })
})

describe('a job whose retention is over', () => {
  test('is kept until its row is exported, and deleted a day later', async ({ expect }) => {
    const job = await createEndedJob('succeeded')
    await expire(job)
    await runDurableObjectAlarm(jobOf(job))
    expect(await jobOf(job).view()).toMatchObject({ id: job.id })
    expect(await accountOf(owner).entry(job.id)).toMatchObject({ state: 'captured' })
    const alarm = (await alarmOf(job))! - Date.now()
    expect(alarm > DAY_MS / 2 && alarm <= DAY_MS).toBe(true)
    await markExported(job)
    await runDurableObjectAlarm(jobOf(job))
    expect(await listStored(job)).toEqual(NOTHING)
    expect(await accountOf(owner).entry(job.id)).toBeNull()
  })

  test('is settled first, if necessary', async ({ expect }) => {
    vi.spyOn(console, 'error').mockImplementation(() => {})
    const settle = vi.spyOn(AccountDO.prototype, 'settle').mockRejectedValue(new Error('the account is unreachable'))
    fakeGpu(works)
    fakeReceiver()
    const { id } = await readJob(await put('order'))
    const job = await vi.waitFor(async () => {
      const found = await jobOf({ id }).view()
      if (found?.state !== 'succeeded') throw new Error('not ended yet')
      return found
    })
    await expire(job)
    await runDurableObjectAlarm(jobOf(job))
    expect(await jobOf(job).view()).toMatchObject({ settled: false })
    // The next try is in seconds instead of a day.
    expect((await alarmOf(job))! - Date.now()).toBeLessThan(DAY_MS / 24)
    settle.mockRestore()
    await vi.waitFor(async () => {
      await runDurableObjectAlarm(jobOf(job))
      expect((await accountOf(owner).audit()).kept).toMatchObject({ open: 0, captured: job.price })
    })
  })

  const half = new Error('the worker is terminated')
  test.for([
    ['its files', () => vi.spyOn(env.RESULTS, 'delete').mockRejectedValueOnce(half)],
    [
      'its webhook events',
      () =>
        vi.spyOn(WebhookDO.prototype, 'forgetJob').mockImplementationOnce(() => {
          throw half
        }),
    ],
    [
      'its row',
      () =>
        vi.spyOn(AccountDO.prototype, 'forgetJob').mockImplementationOnce(() => {
          throw half
        }),
    ],
  ] as const)('is deleted by the next alarm if one is interrupted at %s', async ([, stopAt], { expect }) => {
    vi.spyOn(console, 'error').mockImplementation(() => {})
    const job = await createEndedJob('succeeded')
    await markExported(job)
    await expire(job)
    const stopped = stopAt()
    await runDurableObjectAlarm(jobOf(job))
    expect(stopped).toHaveBeenCalledOnce()
    expect(await jobOf(job).view()).not.toBeNull()
    expect(await runDurableObjectAlarm(jobOf(job))).toBe(true)
    expect(await listStored(job)).toEqual(NOTHING)
    expect([await filesOf(owner), await accountOf(owner).entry(job.id)]).toEqual([[], null])
  })

  test('is deleted even if the worker crashed between the deletion of the row and that of the object', async ({
    expect,
  }) => {
    const job = await createEndedJob('succeeded')
    await markExported(job)
    await expire(job)
    expect(await accountOf(owner).forgetJob(job.id)).toBe(true)
    await runDurableObjectAlarm(jobOf(job))
    expect(await listStored(job)).toEqual(NOTHING)
    const { kept, summed } = await accountOf(owner).audit()
    expect(kept).toEqual(summed)
    expect(kept.captured).toBe(job.price)
  })
})

test('a job is kept longer than its images, for every retention period', ({ expect }) => {
  for (const retentionDays of RETENTION_DAYS)
    expect(computeRetentionEnd({ finished: 0, created: 0, retentionDays })).toBe((retentionDays + 7) * DAY_MS)
})

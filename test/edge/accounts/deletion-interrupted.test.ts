// Delayed and interrupted account deletions: later alarms complete them, and no data remains.
import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import { beginDeletion, continueDeletion, deletionOf } from '../../../edge/accounts/deletion.ts'
import { JobDO } from '../../../edge/jobs/job.ts'
import { WebhookDO } from '../../../edge/webhooks/webhook-object.ts'
import { accountOf, createRequest, interceptStatements, queryRows } from '../support/admissions.ts'
import { type Caller, fetchWorker, generate, generatedOf, send } from '../support/client.ts'
import {
  advanceDeletion,
  fillAccount,
  findRemains,
  listTablesWithRows,
  readDeletion,
  requestDeletion,
  resultsOf,
  select,
} from '../support/deletion.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { jobOf, reset, stopsHalfWay, waitForEnd } from '../support/jobs.ts'
import { addEndpoint, newManager, outboxOf } from '../support/manager.ts'
import { fakeReceiver, RECEIVER } from '../support/receiver.ts'

type Call = (this: unknown, ...values: unknown[]) => Promise<unknown>

let owner: Caller
beforeEach(async () => {
  owner = await newManager()
  fakeReceiver()
})
afterEach(() => vi.restoreAllMocks())

/** Delays `first` until `other` is called, for at most 500 ms. A correct deletion calls `other` only after `first` returns. */
function hold(first: [object, string], other: [object, string]): void {
  type Methods = Record<string, Call>
  const [held, made] = [first, other].map(([target, name]) => (target as Methods)[name]!)
  let isMade = false
  vi.spyOn(first[0] as Methods, first[1]).mockImplementation(async function (this: unknown, ...values) {
    for (let waited = 0; !isMade && waited < 500; waited += 5) await new Promise((resolve) => setTimeout(resolve, 5))
    return held!.apply(this, values)
  })
  vi.spyOn(other[0] as Methods, other[1]).mockImplementation(function (this: unknown, ...values) {
    isMade = true
    return made!.apply(this, values)
  })
}
const post = async (fields: object) =>
  ((await (await send('POST', '/v1/jobs', owner, { prompt: 'a cat', ...fields })).json()) as { id: string }).id

describe('a deletion', () => {
  test('waits until a canceled job has stored its pending image', async ({ expect }) => {
    fakeGpu(stopsHalfWay)
    hold([env.RESULTS, 'put'], [env.RESULTS, 'list'])
    const id = await post({ n: 2 })
    await vi.waitFor(() => expect(env.RESULTS.put).toHaveBeenCalled())
    // The cancel request to the GPU fails, so the job ends immediately.
    const answers = vi.mocked(fetch).getMockImplementation()!
    vi.mocked(fetch).mockImplementation(async (input, init) => {
      if (new Request(input, init).method === 'DELETE') throw new TypeError('connection refused')
      return answers(input, init)
    })
    await fetchWorker(`/v1/jobs/${id}`, { method: 'DELETE', headers: owner.headers })
    await requestDeletion(owner)
    await advanceDeletion(owner, 'usage')
    await vi.mocked(env.RESULTS.put).mock.results.at(-1)!.value
    expect(await resultsOf(owner)).toEqual([])
  })

  test('waits until a job has published its pending webhook event', async ({ expect }) => {
    fakeGpu(works)
    hold([WebhookDO.prototype, 'publish'], [WebhookDO.prototype, 'eraseAccount'])
    const id = await post({ webhook: `${RECEIVER}/mine` })
    await vi.waitFor(async () => {
      if ((await jobOf({ id }).view())?.state !== 'succeeded') throw new Error('not ended yet')
      expect(WebhookDO.prototype.publish).toHaveBeenCalled()
    })
    await requestDeletion(owner)
    await advanceDeletion(owner, 'usage')
    await vi.mocked(WebhookDO.prototype.publish).mock.results.at(-1)!.value
    expect(await listTablesWithRows(outboxOf(owner))).toEqual([])
  })

  test('erases all other jobs while one job fails to erase, and completes once that job succeeds', async ({
    expect,
  }) => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    await runInDurableObject(accountOf(owner), (_, { storage }) => {
      storage.sql.exec(
        `WITH RECURSIVE counter (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counter WHERE n < 49)
         INSERT INTO ledger (job, key_id, meters, tier, amount, state, reserved, settled, fingerprint, digest)
         SELECT 'job_' || n, 'k', '[]', 'fp8', 5, 'released', 0, 0, 'f' || n, 'd' FROM counter`,
      )
    })
    const erase = vi.spyOn(JobDO.prototype, 'erase').mockImplementation(async function (this: JobDO) {
      // The spy is shared by all job objects; the object name identifies the failing one.
      const { ctx } = this as unknown as { ctx: DurableObjectState }
      if (ctx.id.name === 'job_3') throw new Error('its object is broken')
    })
    await requestDeletion(owner)
    await runDurableObjectAlarm(accountOf(owner))
    expect(await queryRows(owner, 'SELECT job FROM ledger')).toEqual([{ job: 'job_3' }])
    expect(await readDeletion(owner)).toMatchObject({ step: 'jobs', erased: 49 })
    expect(logged.mock.calls.join()).toContain('its object is broken')
    erase.mockRestore()
    await advanceDeletion(owner, 'done')
    expect(await readDeletion(owner)).toMatchObject({ erased: 50, jobs: 50 })
  })

  test('waits for the usage export; the waiting ledger rows contain no personal data', async ({ expect }) => {
    const lost = vi
      .spyOn(env.USAGE, 'sendBatch')
      .mockResolvedValue({ metadata: { metrics: { backlogCount: 0, backlogBytes: 0 } } })
    const { made } = await fillAccount(owner)
    await requestDeletion(owner)
    await advanceDeletion(owner, 'export')
    const waiting = await queryRows(owner, 'SELECT * FROM ledger')
    expect(waiting).toHaveLength(2)
    for (const row of waiting)
      expect(row).toMatchObject({ name: null, spec: null, summary: null, fingerprint: '', digest: '' })
    expect(await resultsOf(owner)).toEqual([])
    lost.mockRestore()
    await queryRows(owner, 'UPDATE usage_outbox SET due = 0')
    await advanceDeletion(owner, 'done')
    const [sum] = await select(`SELECT count(*) AS n FROM usage_totals WHERE account = '' AND charged > 0`)
    expect(sum!.n).toBeGreaterThan(0)
    expect(await findRemains(owner, [made.octet.job])).toEqual([])
  })
})

/** External calls of a deletion. */
const CALLS = [
  [JobDO.prototype, 'erase'],
  [WebhookDO.prototype, 'eraseAccount'],
  [env.RESULTS, 'list'],
  [env.RESULTS, 'delete'],
  [env.DB, 'batch'],
] as const
type Fault = 'fails' | 'fails after its work' | 'finds the account reset'

/** Injects a failure into the `n`th of these calls and reports its name as `struck`. A call held for a reset resumes on `released`. */
function strike(n: number, fault: Fault) {
  const state = { calls: 0, struck: null as string | null, released: false }
  for (const [target, name] of CALLS) {
    const original = (target as unknown as Record<string, Call>)[name]!
    const runStruck: Call = async function (...values) {
      if (++state.calls !== n) return original.apply(this, values)
      state.struck = name
      if (fault === 'fails after its work') await original.apply(this, values)
      if (fault !== 'finds the account reset') throw new Error('the worker is terminated')
      // Polls with its own timer, because workerd forbids waking one request from another.
      while (!state.released) await new Promise((resolve) => setTimeout(resolve, 5))
      return original.apply(this, values)
    }
    vi.spyOn(target as unknown as Record<string, Call>, name).mockImplementation(runStruck as never)
  }
  return state
}

/** Creates an account with a finished job and its image, a reservation without a job, a webhook endpoint and a credit. */
async function createSmallAccount(): Promise<{ caller: Caller; jobs: string[] }> {
  const caller = await newManager()
  fakeGpu(works)
  fakeReceiver()
  await addEndpoint(caller)
  await accountOf(caller).credit('invoice', 900, '')
  const { octet } = await generatedOf(await generate(caller, { prompt: 'a cat' }))
  await waitForEnd({ id: octet.job })
  const orphan = await createRequest(caller)
  await accountOf(caller).admit(orphan)
  return { caller, jobs: [octet.job, orphan.spec.id] }
}

describe('an interrupted deletion is completed by later alarms', () => {
  test.for(['fails', 'fails after its work', 'finds the account reset'] as const)(
    'when any call %s',
    { timeout: 300_000 },
    async (fault, { expect }) => {
      const struckAt = new Set<string>()
      for (let [n, whole] = [1, 0]; whole < 2; n++) {
        const { caller, jobs } = await createSmallAccount()
        vi.spyOn(console, 'error').mockImplementation(() => {})
        await requestDeletion(caller)
        const state = strike(n, fault)
        if (fault === 'finds the account reset') {
          const resetting = vi.waitFor(
            async () => {
              if (!state.struck && (await readDeletion(caller))?.step !== 'done') throw new Error('not struck yet')
              if (state.struck) await reset(accountOf(caller))
              state.released = true
            },
            { timeout: 60_000, interval: 5 },
          )
          // The reset makes the running alarm fail.
          await Promise.all([advanceDeletion(caller, 'done').catch(() => {}), resetting])
        }
        await advanceDeletion(caller, 'done')
        vi.restoreAllMocks()
        expect(await findRemains(caller, jobs), `call ${n}`).toEqual([])
        expect(await readDeletion(caller), `call ${n}`).toMatchObject({ erased: 2, jobs: 1, credited: 900 })
        if (state.struck) struckAt.add(state.struck)
        else whole += 1
      }
      expect(struckAt).toEqual(new Set(CALLS.map(([, name]) => name)))
    },
  )

  test('when any of its SQL statements fails', { timeout: 300_000 }, async ({ expect }) => {
    const stoppedAt = new Set<string>()
    const steps = ['request', 'jobs', 'files', 'webhooks', 'export', 'account', 'usage', 'done']
    // Statements are counted per step, because the time of the export decides how often its step is repeated.
    for (let [step, n] = [0, 1]; step < steps.length; n++) {
      const { caller, jobs } = await createSmallAccount()
      vi.spyOn(console, 'error').mockImplementation(() => {})
      let left = n
      /** Runs the next part of the deletion directly instead of through the alarm. */
      const proceed = () =>
        runInDurableObject(accountOf(caller), async (_, { storage }) => {
          await storage.deleteAlarm()
          const sql = interceptStatements(storage.sql, () => {
            const current = deletionOf(storage.sql)?.step ?? 'request'
            if (current !== steps[step] || --left !== 0) return
            stoppedAt.add(current)
            throw new Error('stopped')
          })
          const transact = (change: () => void) => storage.transactionSync(change)
          if (!deletionOf(storage.sql)) transact(() => beginDeletion(sql))
          storage.sql.exec('UPDATE deletion SET due = 0')
          await continueDeletion({ account: caller.account, sql, env, transact })
          // From here on, the alarm runs only the usage export.
          storage.sql.exec('UPDATE deletion SET due = 9e15')
          await storage.setAlarm(Date.now() + 60_000)
        }).catch((cause) => {
          if (cause.message !== 'stopped') throw cause
        })
      await vi.waitFor(
        async () => {
          await proceed()
          await runDurableObjectAlarm(accountOf(caller))
          if ((await readDeletion(caller))?.step !== 'done') throw new Error('not done yet')
        },
        { timeout: 60_000, interval: 20 },
      )
      vi.restoreAllMocks()
      expect(await findRemains(caller, jobs), `${steps[step]}, statement ${n}`).toEqual([])
      expect(await readDeletion(caller), `${steps[step]}, statement ${n}`).toMatchObject({
        erased: 2,
        jobs: 1,
        credited: 900,
      })
      if (left > 0) [step, n] = [step + 1, 0]
    }
    expect([...stoppedAt].toSorted()).toEqual(steps.toSorted())
  })
})

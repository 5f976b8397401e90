// A deletion that must wait, or that stops half-way: nothing is left behind, and the alarms that follow finish it.
import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import { beginDeletion, continueDeletion, deletionOf } from '../../edge/account-deletion.ts'
import { JobDO } from '../../edge/job.ts'
import { WebhookDO } from '../../edge/webhook-outbox.ts'
import { accountOf, request, rows, watched } from './admissions.ts'
import { type Caller, fetchWorker, generate, generatedOf, send } from './client.ts'
import { deletion, filled, furnished, remains, requestDeletion, resultsOf, select, until } from './deletion.ts'
import { fakeGpu, works } from './fake-gpu.ts'
import { jobOf, over, reset, stopsHalfWay } from './jobs.ts'
import { addEndpoint, newManager, outboxOf } from './manager.ts'
import { RECEIVER, receiver } from './receiver.ts'

type Call = (this: unknown, ...values: unknown[]) => Promise<unknown>

let owner: Caller
beforeEach(async () => {
  owner = await newManager()
  receiver()
})
afterEach(() => vi.restoreAllMocks())

/** Holds a call back until another was made, or for half a second: a deletion that waits for the first never makes the other. */
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
  test('waits for an image that a canceled job is storing', async ({ expect }) => {
    fakeGpu(stopsHalfWay)
    hold([env.RESULTS, 'put'], [env.RESULTS, 'list'])
    const id = await post({ n: 2 })
    await vi.waitFor(() => expect(env.RESULTS.put).toHaveBeenCalled())
    // The GPU does not answer to the cancellation: the job ends at once.
    const answers = vi.mocked(fetch).getMockImplementation()!
    vi.mocked(fetch).mockImplementation(async (input, init) => {
      if (new Request(input, init).method === 'DELETE') throw new TypeError('connection refused')
      return answers(input, init)
    })
    await fetchWorker(`/v1/jobs/${id}`, { method: 'DELETE', headers: owner.headers })
    await requestDeletion(owner)
    await until(owner, 'usage')
    await vi.mocked(env.RESULTS.put).mock.results.at(-1)!.value
    expect(await resultsOf(owner)).toEqual([])
  })

  test('waits for a webhook event that a job is publishing', async ({ expect }) => {
    fakeGpu(works)
    hold([WebhookDO.prototype, 'publish'], [WebhookDO.prototype, 'eraseAccount'])
    const id = await post({ webhook: `${RECEIVER}/mine` })
    await vi.waitFor(async () => {
      if ((await jobOf({ id }).view())?.state !== 'succeeded') throw new Error('not ended yet')
      expect(WebhookDO.prototype.publish).toHaveBeenCalled()
    })
    await requestDeletion(owner)
    await until(owner, 'usage')
    await vi.mocked(WebhookDO.prototype.publish).mock.results.at(-1)!.value
    expect(await filled(outboxOf(owner))).toEqual([])
  })

  test('erases all other jobs while one cannot be erased, and completes once it can', async ({ expect }) => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    await runInDurableObject(accountOf(owner), (_, { storage }) => {
      storage.sql.exec(
        `WITH RECURSIVE counter (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counter WHERE n < 49)
         INSERT INTO ledger (job, key_id, meters, tier, amount, state, reserved, settled, fingerprint, digest, endpoint, granted)
         SELECT 'job_' || n, 'k', '[]', 'fp8', 5, 'released', 0, 0, 'f' || n, 'd', 'default', 1 FROM counter`,
      )
    })
    const erase = vi.spyOn(JobDO.prototype, 'erase').mockImplementation(async function (this: JobDO) {
      // Only its name tells one object from another here.
      const { ctx } = this as unknown as { ctx: DurableObjectState }
      if (ctx.id.name === 'job_3') throw new Error('its object is broken')
    })
    await requestDeletion(owner)
    await runDurableObjectAlarm(accountOf(owner))
    expect(await rows(owner, 'SELECT job FROM ledger')).toEqual([{ job: 'job_3' }])
    expect(await deletion(owner)).toMatchObject({ step: 'jobs', erased: 49 })
    expect(logged.mock.calls.join()).toContain('its object is broken')
    erase.mockRestore()
    await until(owner, 'done')
    expect(await deletion(owner)).toMatchObject({ erased: 50, jobs: 50 })
  })

  test('waits until usage is exported; the rows that wait hold no data of the caller', async ({ expect }) => {
    const lost = vi
      .spyOn(env.USAGE, 'sendBatch')
      .mockResolvedValue({ metadata: { metrics: { backlogCount: 0, backlogBytes: 0 } } })
    const { made } = await furnished(owner)
    await requestDeletion(owner)
    await until(owner, 'export')
    const waiting = await rows(owner, 'SELECT * FROM ledger')
    expect(waiting).toHaveLength(2)
    for (const row of waiting)
      expect(row).toMatchObject({ name: null, spec: null, summary: null, fingerprint: '', digest: '' })
    expect(await resultsOf(owner)).toEqual([])
    lost.mockRestore()
    await rows(owner, 'UPDATE usage_outbox SET due = 0')
    await until(owner, 'done')
    const [sum] = await select(`SELECT count(*) AS n FROM usage_totals WHERE account = '' AND charged > 0`)
    expect(sum!.n).toBeGreaterThan(0)
    expect(await remains(owner, [made.octet.job])).toEqual([])
  })
})

/** What a deletion calls outside of its own object. */
const CALLS = [
  [JobDO.prototype, 'erase'],
  [WebhookDO.prototype, 'eraseAccount'],
  [env.RESULTS, 'list'],
  [env.RESULTS, 'delete'],
  [env.DB, 'batch'],
] as const
type Blow = 'fails' | 'fails after its work' | 'finds the account reset'

/** Strikes the `n`th of these calls. `struck` is its name once it came; a call that waits for the reset goes on at `release`. */
function strike(n: number, blow: Blow) {
  const state = { calls: 0, struck: null as string | null, released: false }
  for (const [target, name] of CALLS) {
    const original = (target as unknown as Record<string, Call>)[name]!
    const struck: Call = async function (...values) {
      if (++state.calls !== n) return original.apply(this, values)
      state.struck = name
      if (blow === 'fails after its work') await original.apply(this, values)
      if (blow !== 'finds the account reset') throw new Error('the worker dies')
      // Each request waits by itself: none may be woken by another.
      while (!state.released) await new Promise((resolve) => setTimeout(resolve, 5))
      return original.apply(this, values)
    }
    vi.spyOn(target as unknown as Record<string, Call>, name).mockImplementation(struck as never)
  }
  return state
}

/** An account with a job that has an image, a reservation without a job, a webhook and a credit. */
async function small(): Promise<{ caller: Caller; jobs: string[] }> {
  const caller = await newManager()
  fakeGpu(works)
  receiver()
  await addEndpoint(caller)
  await accountOf(caller).credit('invoice', 900, '')
  const { octet } = await generatedOf(await generate(caller, { prompt: 'a cat' }))
  await over({ id: octet.job })
  const orphan = await request(caller)
  await accountOf(caller).admit(orphan)
  return { caller, jobs: [octet.job, orphan.spec.id] }
}

describe('a deletion that stops half-way is finished by the alarms that follow', () => {
  test.for(['fails', 'fails after its work', 'finds the account reset'] as const)(
    'when any call %s',
    { timeout: 300_000 },
    async (blow, { expect }) => {
      const struckAt = new Set<string>()
      for (let [n, whole] = [1, 0]; whole < 2; n++) {
        const { caller, jobs } = await small()
        vi.spyOn(console, 'error').mockImplementation(() => {})
        await requestDeletion(caller)
        const state = strike(n, blow)
        if (blow === 'finds the account reset') {
          const resetting = vi.waitFor(
            async () => {
              if (!state.struck && (await deletion(caller))?.step !== 'done') throw new Error('not struck yet')
              if (state.struck) await reset(accountOf(caller))
              state.released = true
            },
            { timeout: 60_000, interval: 5 },
          )
          // The alarm that is cut short fails.
          await Promise.all([until(caller, 'done').catch(() => {}), resetting])
        }
        await until(caller, 'done')
        vi.restoreAllMocks()
        expect(await remains(caller, jobs), `call ${n}`).toEqual([])
        expect(await deletion(caller), `call ${n}`).toMatchObject({ erased: 2, jobs: 1, credited: 900 })
        if (state.struck) struckAt.add(state.struck)
        else whole += 1
      }
      expect(struckAt).toEqual(new Set(CALLS.map(([, name]) => name)))
    },
  )

  test('when any of its own statements fails', { timeout: 300_000 }, async ({ expect }) => {
    const stoppedAt = new Set<string>()
    // How many statements there are depends on when the export arrives.
    for (let [n, whole] = [1, 0]; whole < 3; n++) {
      const { caller, jobs } = await small()
      vi.spyOn(console, 'error').mockImplementation(() => {})
      let left = n
      /** Continues the deletion here and now, in the place of the alarm. */
      const proceed = () =>
        runInDurableObject(accountOf(caller), async (_, { storage }) => {
          await storage.deleteAlarm()
          const sql = watched(storage.sql, () => {
            if (--left > 0 || left < 0) return
            stoppedAt.add(deletionOf(storage.sql)?.step ?? 'request')
            throw new Error('stopped')
          })
          const transact = (change: () => void) => storage.transactionSync(change)
          if (!deletionOf(storage.sql)) transact(() => beginDeletion(sql))
          storage.sql.exec('UPDATE deletion SET due = 0')
          await continueDeletion({ account: caller.account, sql, env, transact })
          // The alarm is left with the export.
          storage.sql.exec('UPDATE deletion SET due = 9e15')
          await storage.setAlarm(Date.now() + 60_000)
        }).catch((cause) => {
          if (cause.message !== 'stopped') throw cause
        })
      await vi.waitFor(
        async () => {
          await proceed()
          await runDurableObjectAlarm(accountOf(caller))
          if ((await deletion(caller))?.step !== 'done') throw new Error('not done yet')
        },
        { timeout: 60_000, interval: 20 },
      )
      vi.restoreAllMocks()
      if (left > 0) whole += 1
      expect(await remains(caller, jobs), `statement ${n}`).toEqual([])
      expect(await deletion(caller), `statement ${n}`).toMatchObject({ erased: 2, jobs: 1, credited: 900 })
    }
    const steps = ['request', 'jobs', 'files', 'webhooks', 'export', 'account', 'usage', 'done']
    expect([...stoppedAt].toSorted()).toEqual(steps.toSorted())
  })
})

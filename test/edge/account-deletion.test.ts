// An account that is deleted: its keys end at once, then everything that is stored of it goes, whatever stops half-way.
import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import { beginDeletion, continueDeletion, deletionOf } from '../../edge/account-deletion.ts'
import type { UsageRecord } from '../../edge/account-outbox.ts'
import { JobDO } from '../../edge/job.ts'
import { consumeUsage } from '../../edge/usage-export.ts'
import { WebhookDO } from '../../edge/webhook-outbox.ts'
import { accountOf, admit, request, rows, watched } from './admissions.ts'
import {
  type Caller,
  fetchWorker,
  type Generated,
  generate,
  generatedOf,
  newCaller,
  problemOf,
  send,
} from './client.ts'
import { cancellations, fakeGpu, type Seen, untilCanceled, works } from './fake-gpu.ts'
import { jobOf, over, reservationOf, reset, stopsHalfWay } from './jobs.ts'
import { call, configure, operator } from './operator.ts'
import { addEndpoint, newManager, outboxOf, RECEIVER, receiver } from './receiver.ts'

const DAY_MS = 24 * 3600_000
const running: string[] = []
type Call = (this: unknown, ...values: unknown[]) => Promise<unknown>
let owner: Caller
beforeEach(async () => {
  owner = await newManager()
  receiver()
})
afterEach(() => {
  vi.restoreAllMocks()
  // A job that still runs would keep the test from ending.
  cancellations.push(...running.splice(0).map((job) => ({ job, attempt: 1 })))
})

const deletion = async (caller = owner) => (await accountOf(caller).view()).deletion
const requestDeletion = (caller = owner) =>
  fetchWorker(`/v1/account?confirm=${caller.account}`, { method: 'DELETE', headers: caller.headers })

/** Lets the time pass that the deletion waits for, alarm by alarm, until it has come to a step. */
const until = (step: string, caller = owner) =>
  vi.waitFor(
    async () => {
      const now = (await deletion(caller))?.step
      if (now === step) return
      await rows(caller, 'UPDATE deletion SET due = min(due, 0)')
      await runDurableObjectAlarm(accountOf(caller))
      if ((await deletion(caller))?.step !== step) throw new Error(`the deletion is at ${now}`)
    },
    { timeout: 20_000, interval: 20 },
  )

const resultsOf = async ({ account }: Caller) => {
  const { objects } = await env.RESULTS.list()
  return objects.filter(({ key }) => key.includes(account)).map(({ key }) => key)
}
const database = async (sql: string) => (await env.DB.prepare(sql).all()).results
const storedIn = (job: string) =>
  runInDurableObject(jobOf({ id: job }), (_, { storage }) => [
    ...[...storage.kv.list()].map(([name]) => name),
    ...storage.sql.exec("SELECT name FROM sqlite_schema WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'").toArray(),
  ])
/** The tables of an object that have rows. */
const filled = <T extends Rpc.DurableObjectBranded>(object: DurableObjectStub<T>): Promise<string[]> =>
  runInDurableObject(
    object as never,
    ((_: unknown, { storage }: DurableObjectState) =>
      storage.sql
        .exec<{ name: string }>(
          "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_cf%' ESCAPE '\\'",
        )
        .toArray()
        .map(({ name }) => name)
        .filter((name) => storage.sql.exec(`SELECT 1 FROM "${name}" LIMIT 1`).toArray().length > 0)) as never,
  )

/** An account with something in every place; `jobs` of which the last one runs. */
async function furnished(caller: Caller) {
  const gpu: Seen[] = fakeGpu((seen) => (seen.request.prompt === 'runs' ? untilCanceled(1)(seen) : works(seen)))
  receiver()
  await addEndpoint(caller)
  await configure(caller.account, { limits: { concurrent_jobs: 7 } })
  await accountOf(caller).credit('invoice-1', 5000, 'paid by Ada Lovelace')
  const body = { prompt: 'a secret wish', n: 2, webhook: `${RECEIVER}/mine` }
  const made: Generated = await generatedOf(await generate(caller, body, { 'idempotency-key': 'once' }))
  const { id } = (await (await send('PUT', '/v1/jobs/mine', caller, { prompt: 'runs' })).json()) as { id: string }
  running.push(id)
  await vi.waitFor(async () => {
    if ((await jobOf({ id }).view())?.state !== 'running') throw new Error('not running yet')
  })
  const orphan = await request(caller, { name: 'orphan' })
  await accountOf(caller).admit(orphan)
  await over({ id: made.octet.job })
  return { made, gpu, orphan: orphan.spec, jobs: [made.octet.job, orphan.spec.id, id] }
}

/** Whatever is left of an account anywhere but the record of its deletion, as a list that is empty when nothing is. */
async function remains(caller: Caller, jobs: readonly string[]): Promise<unknown[]> {
  const { account } = caller
  const own = await filled(accountOf(caller))
  // Their marks, which keep a late request from creating them, go with their alarms.
  for (const job of jobs) await runDurableObjectAlarm(jobOf({ id: job }))
  const objects = await Promise.all(jobs.map(storedIn))
  const inDatabase = await database(
    `SELECT id FROM usage_ledger WHERE account = '${account}' UNION ALL SELECT id FROM observations WHERE id LIKE '${account}/%'
     UNION ALL SELECT account FROM usage_daily WHERE account = '${account}'`,
  )
  return [
    ...own.filter((table) => table !== 'deletion'),
    ...objects.flat(),
    ...(await resultsOf(caller)),
    ...(await filled(outboxOf(caller))),
    ...inDatabase,
  ]
}

test('DELETE /v1/account ends every key, token and link, cancels what runs, and deletes everything that is stored', {
  timeout: 60_000,
}, async ({ expect }) => {
  const { made, jobs } = await furnished(owner)
  const asked = { scope: 'read', expires_in: 3600 }
  const { token } = (await (await send('POST', '/v1/tokens', owner, asked)).json()) as { token: string }
  const link = made.data[0]!.url!
  await (await fetchWorker(link)).arrayBuffer()
  const charged = made.octet.price_microdollars

  const reply = await requestDeletion()
  expect([reply.status, await reply.json()]).toEqual([
    202,
    {
      account: owner.account,
      deletion: expect.objectContaining({ state: 'deleting', step: 'jobs', completed: null, jobs_deleted: 0 }),
    },
  ])
  for (const key of [owner.key, token])
    for (const path of ['/v1/models', `/v1/jobs/${jobs[0]}`, `/v1/results/${jobs[0]}/0.png`])
      expect((await fetchWorker(path, { headers: { authorization: `Bearer ${key}` } })).status, path).toBe(401)
  expect((await generate(owner, { prompt: 'a cat' })).status).toBe(401)
  expect((await requestDeletion()).status).toBe(401)

  await until('usage')
  expect(cancellations).toMatchObject([{ job: jobs[2] }])
  expect([403, 404]).toContain((await fetchWorker(link)).status)
  const { audit, view } = { audit: await accountOf(owner).audit(), view: await accountOf(owner).view() }
  expect(audit).toEqual({
    kept: { credited: 0, captured: 0, reserved: 0, open: 0 },
    summed: { credited: 0, captured: 0, reserved: 0, open: 0 },
  })
  const captured = view.deletion!.captured!
  // The job that ran pays for its step.
  expect(captured).toBeGreaterThan(charged)
  expect(view.deletion).toMatchObject({ erased: 3, jobs: 2, credited: 5000 })
  await until('done')
  expect(await remains(owner, jobs)).toEqual([])
  expect((await call('GET', `/v1/accounts/${owner.account}`, operator)).body).toMatchObject({
    deletion: {
      ...{ state: 'deleted', completed: expect.any(Number), jobs_deleted: 3 },
      ...{ jobs: 2, credited_microdollars: 5000, captured_microdollars: captured },
    },
  })
  await vi.waitFor(async () => expect(await runDurableObjectAlarm(accountOf(owner))).toBe(false))
})

test('what was used is in the operator’s books, under no name, and counts once however often the Queue brings it', async ({
  expect,
}) => {
  const records: UsageRecord[] = []
  const send = env.USAGE.sendBatch.bind(env.USAGE)
  vi.spyOn(env.USAGE, 'sendBatch').mockImplementation(async (batch, options) => {
    const messages = [...batch]
    records.push(...messages.map(({ body }) => body))
    return send(messages, options)
  })
  const total = async () => (await database('SELECT sum(jobs) AS jobs, sum(charged) AS charged FROM usage_totals'))[0]!
  const before = await total()
  await furnished(owner)
  await requestDeletion()
  await until('usage')
  const wait = (await deletion())!.due - Date.now()
  expect(wait > 4 * DAY_MS && wait <= 5 * DAY_MS).toBe(true)
  const { captured } = (await deletion())!
  const after = { jobs: Number(before.jobs) + 2, charged: Number(before.charged) + captured! }
  expect(await total()).toEqual(after)
  const message = { id: 'again', timestamp: new Date(), attempts: 2, ack: () => {}, retry: () => {} }
  const messages = records.map((body) => ({ ...message, body }))
  await consumeUsage({ queue: 'octet-usage', messages } as unknown as MessageBatch<UsageRecord>, env)
  expect(await total()).toEqual(after)
  await until('done')
  expect(await total()).toEqual(after)
  const [named] = await database(`SELECT count(*) AS n FROM usage_totals WHERE account = '${owner.account}'`)
  expect(named).toEqual({ n: 0 })
})

describe('a deletion', () => {
  test.for([
    ['without confirmation', '', 'confirm is missing; it must be "NAME".'],
    ['with the confirmation of another', '?confirm=acme', 'confirm is "acme"; it must be "NAME".'],
    ['with a field that it lacks', '?force=true', 'force is not a field of this request; allowed are confirm.'],
  ] as const)('%s does not happen', async ([, query, detail], { expect }) => {
    for (const [path, headers] of [
      ['/v1/account', owner.headers],
      [`/v1/accounts/${owner.account}`, operator],
    ] as const) {
      const refused = await fetchWorker(`${path}${query}`, { method: 'DELETE', headers })
      const problem = await problemOf(refused)
      expect([refused.status, problem.detail]).toEqual([
        400,
        expect.stringContaining(detail.replace('NAME', owner.account)),
      ])
    }
    expect(await deletion()).toBeNull()
  })

  test('is for a key of scope admin of this account, and for the operator', async ({ expect }) => {
    const [user, stranger] = [await newCaller(), await newManager()]
    const { token } = (await (
      await send('POST', '/v1/tokens', owner, { scope: 'generate', budget_microdollars: 9 })
    ).json()) as { token: string }
    const remove = (path: string, headers: Record<string, string>) =>
      fetchWorker(path, { method: 'DELETE', headers }).then(({ status }) => status)
    expect(await remove(`/v1/account?confirm=${user.account}`, user.headers)).toBe(403)
    expect(await remove(`/v1/account?confirm=${owner.account}`, { authorization: `Bearer ${token}` })).toBe(403)
    expect(await remove(`/v1/account?confirm=${owner.account}`, stranger.headers)).toBe(400)
    expect(await remove(`/v1/account?confirm=${owner.account}`, {})).toBe(401)
    expect(await remove(`/v1/accounts/${owner.account}?confirm=${owner.account}`, owner.headers)).toBe(401)
    expect(await deletion()).toBeNull()
    expect(await remove(`/v1/accounts/${owner.account}?confirm=${owner.account}`, operator)).toBe(202)
    expect(await remove(`/v1/accounts/${owner.account}?confirm=${owner.account}`, operator)).toBe(202)
    expect(await deletion()).toMatchObject({ completed: null })
  })

  test('of an account that never was is refused, so that a slip of the pen takes no name', async ({ expect }) => {
    const path = '/v1/accounts/no-such-account?confirm=no-such-account'
    expect((await call('DELETE', path, operator)).status).toBe(404)
    expect((await call('POST', '/v1/keys', operator, { account: 'no-such-account' })).status).toBe(201)
  })

  test('leaves a name that nothing fills again: no key, no credit, no settings, no export', async ({ expect }) => {
    await admit(owner, { job: 'job_1' })
    await requestDeletion()
    const path = `/v1/accounts/${owner.account}`
    const refusals = async () => [
      await call('POST', '/v1/keys', operator, { account: owner.account }),
      await call('PATCH', path, operator, { prepaid: true }),
      await call('POST', `${path}/credits`, operator, { id: 'x', amount_microdollars: 1 }),
      await call('GET', `${path}/export`, operator),
    ]
    for (const step of ['jobs', 'done']) {
      if (step === 'done') await until(step)
      for (const { status, body } of await refusals())
        expect([status, (body as { error: { code: string } }).error.code]).toEqual([410, 'account_deleted'])
    }
    // A settlement that was lost on its way for days, and a key that somebody wrote down.
    vi.spyOn(console, 'error').mockImplementation(() => {})
    expect(await accountOf(owner).settle('job_1', { outcome: 'captured', amount: 100 })).toBeNull()
    expect((await admit(owner)).kind).toBe('unauthorised')
    expect(await filled(accountOf(owner))).toEqual(['deletion'])
  })

  test('leaves other accounts alone', async ({ expect }) => {
    const other = await newManager()
    const { jobs } = await furnished(other)
    await furnished(owner)
    await requestDeletion()
    await until('done')
    expect(await jobOf({ id: jobs[2]! }).view()).toMatchObject({ state: 'running' })
    await fetchWorker(`/v1/jobs/${jobs[2]}`, { method: 'DELETE', headers: other.headers })
    expect((await fetchWorker(`/v1/jobs/${jobs[0]}`, { headers: other.headers })).status).toBe(200)
    expect(await resultsOf(other)).toHaveLength(2)
    expect(await outboxOf(other).endpoints()).toHaveLength(1)
  })

  test('is not undone by a request that was admitted before it and creates its job after it', async ({ expect }) => {
    const gpu = fakeGpu(works)
    const { spec } = await request(owner, { name: 'late' })
    await accountOf(owner).admit(await request(owner, { name: 'late', job: spec.id }))
    await requestDeletion()
    await until('usage')
    expect(await jobOf(spec).create(reservationOf(spec))).toBeNull()
    expect([await storedIn(spec.id), gpu.length]).toEqual([['erased'], 0])
    await until('done')
    expect(await remains(owner, [spec.id])).toEqual([])
  })

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
    await requestDeletion()
    await until('usage')
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
    await requestDeletion()
    await until('usage')
    await vi.mocked(WebhookDO.prototype.publish).mock.results.at(-1)!.value
    expect(await filled(outboxOf(owner))).toEqual([])
  })

  test('goes on without the one job that cannot be erased yet, and ends with it', async ({ expect }) => {
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
    await requestDeletion()
    await runDurableObjectAlarm(accountOf(owner))
    expect(await rows(owner, 'SELECT job FROM ledger')).toEqual([{ job: 'job_3' }])
    expect(await deletion()).toMatchObject({ step: 'jobs', erased: 49 })
    expect(logged.mock.calls.join()).toContain('its object is broken')
    erase.mockRestore()
    await until('done')
    expect(await deletion()).toMatchObject({ erased: 50, jobs: 50 })
  })

  test('waits for the export of what was used, without data of the caller in the rows that wait', async ({
    expect,
  }) => {
    const lost = vi
      .spyOn(env.USAGE, 'sendBatch')
      .mockResolvedValue({ metadata: { metrics: { backlogCount: 0, backlogBytes: 0 } } })
    const { made } = await furnished(owner)
    await requestDeletion()
    await until('export')
    const waiting = await rows(owner, 'SELECT * FROM ledger')
    expect(waiting).toHaveLength(2)
    for (const row of waiting)
      expect(row).toMatchObject({ name: null, spec: null, summary: null, fingerprint: '', digest: '' })
    expect(await resultsOf(owner)).toEqual([])
    lost.mockRestore()
    await rows(owner, 'UPDATE usage_outbox SET due = 0')
    await until('done')
    const [sum] = await database(`SELECT count(*) AS n FROM usage_totals WHERE account = '' AND charged > 0`)
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

describe('stopped half-way, a deletion is finished by the alarms that follow', () => {
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
          await Promise.all([until('done', caller).catch(() => {}), resetting])
        }
        await until('done', caller)
        vi.restoreAllMocks()
        expect(await remains(caller, jobs), `call ${n}`).toEqual([])
        expect(await deletion(caller), `call ${n}`).toMatchObject({ erased: 2, jobs: 1, credited: 900 })
        if (state.struck) struckAt.add(state.struck)
        else whole += 1
      }
      expect(struckAt).toEqual(new Set(CALLS.map(([, name]) => name)))
    },
  )

  test('at any statement of its own', { timeout: 300_000 }, async ({ expect }) => {
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

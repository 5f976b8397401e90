// Account deletion: keys are rejected immediately, then all stored data is deleted.
import { runDurableObjectAlarm } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import { consumeUsage } from '../../../edge/usage/export.ts'
import type { UsageRecord } from '../../../edge/usage/record.ts'
import { accountOf, admit, createRequest } from '../support/admissions.ts'
import { type Caller, fetchWorker, generate, newCaller, problemOf, send } from '../support/client.ts'
import {
  advanceDeletion,
  fillAccount,
  findRemains,
  listStored,
  listTablesWithRows,
  readDeletion,
  requestDeletion,
  resultsOf,
  select,
} from '../support/deletion.ts'
import { cancellations, fakeGpu, works } from '../support/fake-gpu.ts'
import { jobOf, reservationOf } from '../support/jobs.ts'
import { newManager, outboxOf } from '../support/manager.ts'
import { call, operator } from '../support/operator.ts'
import { fakeReceiver } from '../support/receiver.ts'

const DAY_MS = 24 * 3600_000

let owner: Caller
beforeEach(async () => {
  owner = await newManager()
  fakeReceiver()
})
afterEach(() => vi.restoreAllMocks())

test('DELETE /v1/account invalidates keys, tokens and links, cancels running jobs, and deletes all stored data', {
  timeout: 60_000,
}, async ({ expect }) => {
  const { made, jobs } = await fillAccount(owner)
  const asked = { scope: 'read', expires_in: 3600 }
  const { token } = (await (await send('POST', '/v1/tokens', owner, asked)).json()) as { token: string }
  const link = made.data[0]!.url!
  await (await fetchWorker(link)).arrayBuffer()
  const charged = made.octet.price_microdollars

  const reply = await requestDeletion(owner)
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
  expect((await requestDeletion(owner)).status).toBe(401)

  await advanceDeletion(owner, 'usage')
  expect(cancellations).toMatchObject([{ job: jobs[2] }])
  expect([403, 404]).toContain((await fetchWorker(link)).status)
  const { audit, view } = { audit: await accountOf(owner).audit(), view: await accountOf(owner).view() }
  expect(audit).toEqual({
    kept: { credited: 0, captured: 0, reserved: 0, open: 0 },
    summed: { credited: 0, captured: 0, reserved: 0, open: 0 },
  })
  const captured = view.deletion!.captured!
  // The canceled job is charged for its completed step.
  expect(captured).toBeGreaterThan(charged)
  expect(view.deletion).toMatchObject({ erased: 3, jobs: 2, credited: 5000 })
  await advanceDeletion(owner, 'done')
  expect(await findRemains(owner, jobs)).toEqual([])
  expect((await call('GET', `/v1/accounts/${owner.account}`, operator)).body).toMatchObject({
    deletion: {
      ...{ state: 'deleted', completed: expect.any(Number), jobs_deleted: 3 },
      ...{ jobs: 2, credited_microdollars: 5000, captured_microdollars: captured },
    },
  })
  await vi.waitFor(async () => expect(await runDurableObjectAlarm(accountOf(owner))).toBe(false))
})

test('usage stays in the operator’s totals anonymously, and duplicate Queue deliveries are counted once', async ({
  expect,
}) => {
  const records: UsageRecord[] = []
  const send = env.USAGE.sendBatch.bind(env.USAGE)
  vi.spyOn(env.USAGE, 'sendBatch').mockImplementation(async (batch, options) => {
    const messages = [...batch]
    records.push(...messages.map(({ body }) => body))
    return send(messages, options)
  })
  const readTotal = async () =>
    (await select('SELECT sum(jobs) AS jobs, sum(charged) AS charged FROM usage_totals'))[0]!
  const before = await readTotal()
  await fillAccount(owner)
  await requestDeletion(owner)
  await advanceDeletion(owner, 'usage')
  const wait = (await readDeletion(owner))!.due - Date.now()
  expect(wait > 4 * DAY_MS && wait <= 5 * DAY_MS).toBe(true)
  const { captured } = (await readDeletion(owner))!
  const after = { jobs: Number(before.jobs) + 2, charged: Number(before.charged) + captured! }
  expect(await readTotal()).toEqual(after)
  const message = { id: 'again', timestamp: new Date(), attempts: 2, ack: () => {}, retry: () => {} }
  const messages = records.map((body) => ({ ...message, body }))
  await consumeUsage({ queue: 'octet-usage', messages } as unknown as MessageBatch<UsageRecord>, env)
  expect(await readTotal()).toEqual(after)
  await advanceDeletion(owner, 'done')
  expect(await readTotal()).toEqual(after)
  const [named] = await select(`SELECT count(*) AS n FROM usage_totals WHERE account = '${owner.account}'`)
  expect(named).toEqual({ n: 0 })
})

describe('a deletion', () => {
  test.for([
    ['without confirmation', '', 'confirm is missing; it must be "NAME".'],
    ['with the confirmation of another', '?confirm=acme', 'confirm is "acme"; it must be "NAME".'],
    ['with an unknown field', '?force=true', 'force is not a field of this request; allowed are confirm.'],
  ] as const)('%s is rejected', async ([, query, detail], { expect }) => {
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
    expect(await readDeletion(owner)).toBeNull()
  })

  test('requires the operator token or a key of this account with scope admin', async ({ expect }) => {
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
    expect(await readDeletion(owner)).toBeNull()
    expect(await remove(`/v1/accounts/${owner.account}?confirm=${owner.account}`, operator)).toBe(202)
    expect(await remove(`/v1/accounts/${owner.account}?confirm=${owner.account}`, operator)).toBe(202)
    expect(await readDeletion(owner)).toMatchObject({ completed: null })
  })

  test('of a nonexistent account is rejected, so that a typo does not block an account name', async ({ expect }) => {
    const path = '/v1/accounts/no-such-account?confirm=no-such-account'
    expect((await call('DELETE', path, operator)).status).toBe(404)
    expect((await call('POST', '/v1/keys', operator, { account: 'no-such-account' })).status).toBe(201)
  })

  test('blocks the account name permanently: no keys, credits, settings or exports', async ({ expect }) => {
    await admit(owner, { job: 'job_1' })
    await requestDeletion(owner)
    const path = `/v1/accounts/${owner.account}`
    const refusals = async () => [
      await call('POST', '/v1/keys', operator, { account: owner.account }),
      await call('PATCH', path, operator, { prepaid: true }),
      await call('POST', `${path}/credits`, operator, { id: 'x', amount_microdollars: 1 }),
      await call('GET', `${path}/export`, operator),
    ]
    for (const step of ['jobs', 'done']) {
      if (step === 'done') await advanceDeletion(owner, step)
      for (const { status, body } of await refusals())
        expect([status, (body as { error: { code: string } }).error.code]).toEqual([410, 'account_deleted'])
    }
    // A settlement delivered days late, and an admission with an old key.
    vi.spyOn(console, 'error').mockImplementation(() => {})
    expect(await accountOf(owner).settle('job_1', { outcome: 'captured', amount: 100 })).toBeNull()
    expect((await admit(owner)).kind).toBe('unauthorized')
    expect(await listTablesWithRows(accountOf(owner))).toEqual(['deletion'])
  })

  test('does not affect other accounts', async ({ expect }) => {
    const other = await newManager()
    const { jobs } = await fillAccount(other)
    await fillAccount(owner)
    await requestDeletion(owner)
    await advanceDeletion(owner, 'done')
    expect(await jobOf({ id: jobs[2]! }).view()).toMatchObject({ state: 'running' })
    await fetchWorker(`/v1/jobs/${jobs[2]}`, { method: 'DELETE', headers: other.headers })
    expect((await fetchWorker(`/v1/jobs/${jobs[0]}`, { headers: other.headers })).status).toBe(200)
    expect(await resultsOf(other)).toHaveLength(2)
    expect(await outboxOf(other).endpoints()).toHaveLength(1)
  })

  test('is not undone when a request admitted earlier creates its job afterward', async ({ expect }) => {
    const gpu = fakeGpu(works)
    const { spec } = await createRequest(owner, { name: 'late' })
    await accountOf(owner).admit(await createRequest(owner, { name: 'late', job: spec.id }))
    await requestDeletion(owner)
    await advanceDeletion(owner, 'usage')
    expect(await jobOf(spec).create(reservationOf(spec))).toBeNull()
    expect([await listStored(spec.id), gpu.length]).toEqual([['erased'], 0])
    await advanceDeletion(owner, 'done')
    expect(await findRemains(owner, [spec.id])).toEqual([])
  })
})

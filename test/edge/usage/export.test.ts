import {
  createExecutionContext,
  createMessageBatch,
  getQueueResult,
  runDurableObjectAlarm,
  runInDurableObject,
} from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { checkKey } from '../../../edge/auth/keys.ts'
import { consumeUsage } from '../../../edge/usage/export.ts'
import type { UsageRecord } from '../../../edge/usage/record.ts'
import { requestOf } from '../support/admissions.ts'
import { type Caller, newCaller } from '../support/client.ts'
import { peppers } from '../support/config.ts'
import { call, configure } from '../support/operator.ts'

afterEach(() => vi.restoreAllMocks())

type Row = Omit<UsageRecord, 'observed'> & { reported: number | null }
const rowsOf = async (account: string) =>
  (await env.DB.prepare('SELECT * FROM usage_ledger WHERE account = ? ORDER BY job').bind(account).all<Row>()).results

async function addSettledJob(caller: Caller, job: string, charged: number): Promise<void> {
  const account = env.ACCOUNT.getByName(caller.account)
  const credential = (await checkKey(peppers, caller.key))!
  await account.admit(requestOf(credential, { job }))
  await account.settle(job, charged > 0 ? { outcome: 'captured', amount: charged } : { outcome: 'released' })
}

describe('the export', () => {
  test('writes every settled job to D1 once, through the Queue', async ({ expect }) => {
    const caller = await newCaller()
    const account = env.ACCOUNT.getByName(caller.account)
    await addSettledJob(caller, 'job_a', 100)
    await addSettledJob(caller, 'job_b', 25)
    await addSettledJob(caller, 'job_c', 0)
    expect(await runDurableObjectAlarm(account)).toBe(true)
    await vi.waitFor(async () => expect(await rowsOf(caller.account)).toHaveLength(3), 5000)
    expect(await rowsOf(caller.account)).toMatchObject([
      {
        id: `${caller.account}/job_a`,
        key_id: caller.keyId,
        tier: 'fp8',
        state: 'captured',
        reserved_amount: 100,
        charged: 100,
      },
      { id: `${caller.account}/job_b`, state: 'captured', charged: 25 },
      { id: `${caller.account}/job_c`, state: 'released', charged: 0 },
    ])
    await vi.waitFor(async () => expect(await runDurableObjectAlarm(account)).toBe(false), 5000)
  })

  test('is repeated until it arrives if the Queue accepts but does not deliver it', async ({ expect }) => {
    const caller = await newCaller()
    const account = env.ACCOUNT.getByName(caller.account)
    await addSettledJob(caller, 'job_a', 7)
    const lost = vi.spyOn(env.USAGE, 'sendBatch').mockResolvedValueOnce({ metadata: { metrics } })
    expect(await runDurableObjectAlarm(account)).toBe(true)
    expect(await runDurableObjectAlarm(account)).toBe(true)
    expect(lost).toHaveBeenCalledOnce()
    await runInDurableObject(account, (_, { storage }) => {
      storage.sql.exec('UPDATE usage_outbox SET due = 0')
    })
    expect(await runDurableObjectAlarm(account)).toBe(true)
    expect(lost).toHaveBeenCalledTimes(2)
    await vi.waitFor(async () => expect(await runDurableObjectAlarm(account)).toBe(false), 5000)
    expect(await rowsOf(caller.account)).toMatchObject([{ job: 'job_a', charged: 7 }])
  })

  test('is repeated if the Queue rejects it', async ({ expect }) => {
    const caller = await newCaller()
    const account = env.ACCOUNT.getByName(caller.account)
    await addSettledJob(caller, 'job_a', 7)
    vi.spyOn(env.USAGE, 'sendBatch').mockRejectedValueOnce(new Error('the queue is unavailable'))
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    for (const _ of ['refused', 'taken']) expect(await runDurableObjectAlarm(account)).toBe(true)
    expect(logged.mock.calls.join()).toContain('the queue is unavailable')
    await vi.waitFor(
      async () => expect(await rowsOf(caller.account)).toMatchObject([{ job: 'job_a', charged: 7 }]),
      5000,
    )
  })
})

const metrics = { backlogCount: 0, backlogBytes: 0 }
const RECORD: UsageRecord = {
  ...{ id: 'acme/job_1', account: 'acme', job: 'job_1', key_id: '0123456789ab', tier: 'fp8', state: 'captured' },
  ...{ reserved_amount: 300, charged: 300, reserved: 1_795_000_000_000, settled: 1_795_000_009_999, observed: null },
  stripe_customer: 'cus_acme',
}

/** Delivers records as the Queue does, to a worker with these secrets. */
async function deliver(records: UsageRecord[], secrets: { STRIPE_SECRET_KEY?: string } = {}, attempts = 1) {
  const messages = records.map((body) => ({ id: crypto.randomUUID(), timestamp: new Date(), attempts, body }))
  const batch = createMessageBatch<UsageRecord>('octet-usage', messages)
  await consumeUsage(batch, { ...env, ...secrets })
  return getQueueResult(batch, createExecutionContext())
}

/** Mocks Stripe at `fetch`: call k gets status k, later calls the last status. */
function stripe(...statuses: [number, ...number[]]) {
  const requests: Request[] = []
  vi.spyOn(globalThis, 'fetch').mockImplementation(async (input, init) => {
    requests.push(new Request(input, init))
    return Response.json({}, { status: statuses[Math.min(requests.length, statuses.length) - 1]! })
  })
  return requests
}
const STRIPE_SECRET_KEY = 'sk_test_secret'

test('writes one row for a record delivered twice, in one batch or two', async ({ expect }) => {
  await deliver([RECORD, RECORD])
  await deliver([{ ...RECORD, charged: 999 }])
  expect(await rowsOf('acme')).toMatchObject([{ charged: 300, reported: null }])
})

describe('a row that cannot be written', () => {
  const of = (account: string, change: object) => ({ ...RECORD, account, id: `${account}/${RECORD.job}`, ...change })
  const observed = { endpoint: 'default', model: 'tiny', tier: 'fp8' as const, created: 1, finished: 2 }
  const took = { megapixel_steps: 1, waited: 0, load: 0, run: 1 }

  test.for([
    ['violates the schema', { charged: null }],
    ['lacks a field', { key_id: undefined }],
    ['has a value of the wrong type', { settled: 'yesterday' }],
  ] as const)(
    'because it %s is retried alone and logged with its job, and blocks no other row',
    async ([what, wrong], { expect }) => {
      const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
      const account = `poison-${what.replaceAll(' ', '-')}`
      const bad = of(account, { ...wrong, id: `${account}/bad`, job: 'bad' }) as unknown as UsageRecord
      const good = ['a', 'b'].map((job) => of(account, { id: `${account}/${job}`, job }))
      const result = await deliver([good[0]!, bad, good[1]!])
      expect((await rowsOf(account)).map(({ job }) => job)).toEqual(['a', 'b'])
      expect([result.explicitAcks.length, result.retryMessages.length]).toEqual([2, 1])
      expect(logged.mock.calls).toHaveLength(1)
      expect(JSON.parse(logged.mock.calls[0]![0])).toMatchObject({
        ...{ message: 'usage could not be written', level: 'error' },
        ...{ account, job: 'bad', attempts: 1, next: 'retry', cause: { message: expect.any(String) } },
      })
    },
  )

  test('because it is not a record at all blocks no other row', async ({ expect }) => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    const result = await deliver([null as unknown as UsageRecord, of('beside-nothing', {})])
    expect(await rowsOf('beside-nothing')).toHaveLength(1)
    expect([result.explicitAcks.length, result.retryMessages.length]).toEqual([1, 1])
    expect(logged.mock.calls.join()).toContain('usage could not be written')
  })

  test('is acknowledged after eight attempts, with a log line, because its account sends it again', async ({
    expect,
  }) => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    const result = await deliver([of('poison-last', { charged: null }) as unknown as UsageRecord], {}, 8)
    expect([result.explicitAcks.length, result.retryMessages.length]).toEqual([1, 0])
    expect(logged.mock.calls.join()).toContain('the account sends it again')
  })

  test('because of an invalid observation is written without the observation, so that the charge counts', async ({
    expect,
  }) => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    const records = [
      of('half', { observed: { ...observed, ...took, run: null } }),
      of('whole', { observed: { ...observed, ...took } }),
    ] as UsageRecord[]
    expect((await deliver(records)).explicitAcks).toHaveLength(2)
    for (const account of ['half', 'whole']) expect(await rowsOf(account)).toMatchObject([{ charged: 300 }])
    const { results } = await env.DB.prepare("SELECT id FROM observations WHERE id LIKE '%/job_1'").all<{
      id: string
    }>()
    expect(results).toEqual([{ id: 'whole/job_1' }])
    expect(JSON.parse(logged.mock.calls[0]![0])).toMatchObject({ account: 'half', job: 'job_1' })
  })

  test('in an account, because its observation cannot be read, blocks no other row of it', async ({ expect }) => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    const caller = await newCaller()
    const account = env.ACCOUNT.getByName(caller.account)
    for (const job of ['job_a', 'job_b']) await addSettledJob(caller, job, 7)
    await runInDurableObject(account, (_, { storage }) => {
      storage.sql.exec("UPDATE ledger SET observed = '{' WHERE job = 'job_a'")
    })
    await runDurableObjectAlarm(account)
    await vi.waitFor(async () => expect(await rowsOf(caller.account)).toHaveLength(2))
    expect(logged.mock.calls.join()).toContain('job_a')
  })
})

describe('Stripe', () => {
  test('receives each capture once, as a meter event', async ({ expect }) => {
    const requests = stripe(200)
    const record = { ...RECORD, id: 'stripe-a/job_1', account: 'stripe-a' }
    for (const _ of [1, 2]) expect((await deliver([record], { STRIPE_SECRET_KEY })).explicitAcks).toHaveLength(1)
    expect(requests).toHaveLength(1)
    const [{ url, method, headers }] = requests as [Request]
    expect([url, method]).toEqual(['https://api.stripe.com/v1/billing/meter_events', 'POST'])
    expect(headers.get('authorization')).toBe('Bearer sk_test_secret')
    expect(headers.get('content-type')).toMatch(/^application\/x-www-form-urlencoded/)
    expect(Object.fromEntries(await requests[0]!.formData())).toEqual({
      event_name: 'octet_microdollars',
      identifier: 'stripe-a/job_1',
      timestamp: '1795000009',
      'payload[stripe_customer_id]': 'cus_acme',
      'payload[value]': '300',
    })
    expect((await rowsOf('stripe-a'))[0]!.reported).toEqual(expect.any(Number))
  })

  test.for([500, 429, 401, 409])(
    'gets the event again after a response with status %i, and no other event is lost',
    async (status, { expect }) => {
      vi.spyOn(console, 'error').mockImplementation(() => {})
      const requests = stripe(status, 200)
      const record = { ...RECORD, id: `down-${status}/job_1`, account: `down-${status}` }
      const result = await deliver([record], { STRIPE_SECRET_KEY })
      expect([result.explicitAcks.length, result.retryMessages.length]).toEqual([0, 1])
      expect(await rowsOf(record.account)).toMatchObject([{ reported: null }])
      expect((await deliver([record], { STRIPE_SECRET_KEY })).explicitAcks).toHaveLength(1)
      expect(requests).toHaveLength(2)
      expect((await rowsOf(record.account))[0]!.reported).not.toBeNull()
    },
  )

  test.for([200, 400])(
    'has confirmed an event with status %i even if the body is incomplete',
    async (status, { expect }) => {
      vi.spyOn(console, 'error').mockImplementation(() => {})
      const broken = () => Promise.reject(new Error('the connection was reset'))
      const answer = () => new Response(new ReadableStream({ pull: broken, cancel: broken }), { status })
      const requests = vi.spyOn(globalThis, 'fetch').mockImplementation(async () => answer())
      const record = { ...RECORD, id: `broken-${status}/job_1`, account: `broken-${status}` }
      for (const _ of [1, 2]) {
        const result = await deliver([record], { STRIPE_SECRET_KEY })
        expect([result.explicitAcks.length, result.retryMessages.length]).toEqual([1, 0])
      }
      expect(requests).toHaveBeenCalledTimes(status === 200 ? 1 : 2)
      expect(await rowsOf(record.account)).toMatchObject([{ reported: status === 200 ? expect.any(Number) : null }])
    },
  )

  test('gets no further requests after a permanent refusal', async ({ expect }) => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    stripe(400)
    const record = { ...RECORD, id: 'wrong/job_1', account: 'wrong' }
    expect((await deliver([record], { STRIPE_SECRET_KEY })).explicitAcks).toHaveLength(1)
    expect(await rowsOf('wrong')).toMatchObject([{ reported: null }])
    expect(logged.mock.calls.join()).toContain('stays unreported')
  })

  test('receives nothing for releases, for accounts without a customer, and without the secret', async ({ expect }) => {
    const requests = stripe(200)
    const quiet = [
      { ...RECORD, id: 'quiet/job_1', state: 'released' as const, charged: 0 },
      { ...RECORD, id: 'quiet/job_2', stripe_customer: null },
    ]
    await deliver(quiet, { STRIPE_SECRET_KEY })
    await deliver([{ ...RECORD, id: 'quiet/job_3' }])
    expect(requests).toHaveLength(0)
  })
})

describe('GET /v1/usage', () => {
  test('lists captures by day, key and tier, and the balance', async ({ expect }) => {
    const caller = await newCaller()
    await env.ACCOUNT.getByName(caller.account).credit('gift', 1000, '')
    await addSettledJob(caller, 'job_a', 100)
    await addSettledJob(caller, 'job_b', 25)
    await addSettledJob(caller, 'job_c', 0)
    const today = new Date().toISOString().slice(0, 10)
    const { status, body } = await call('GET', `/v1/usage?from=${today}&to=${today}`, caller.headers)
    expect(status).toBe(200)
    expect(body).toMatchObject({
      data: [{ day: today, key_id: caller.keyId, tier: 'fp8', jobs: 2, price_microdollars: 125 }],
      total_microdollars: 125,
      balance_microdollars: 875,
      reserved_microdollars: 0,
      prepaid: false,
    })
    const before = await call('GET', '/v1/usage?from=2020-01-01&to=2020-01-31', caller.headers)
    expect(before.body).toMatchObject({ data: [], total_microdollars: 0 })
  })

  test.for([
    ['?from=yesterday', 'from is "yesterday"; it must be a date like 2026-11-22, in UTC.'],
    ['?from=2026-02-01&to=2026-01-01', 'from is 2026-02-01 and to is 2026-01-01; from must not be later'],
    ['?from=2020-01-01&to=2026-01-01', 'the range must not exceed 366 days'],
  ] as const)('%s is refused', async ([query, message], { expect }) => {
    const caller = await newCaller()
    const refused = await call('GET', `/v1/usage${query}`, caller.headers)
    expect(refused).toMatchObject({ status: 400, body: { detail: expect.stringContaining(message) } })
  })

  test('is refused without a key, and for a key without the scope read', async ({ expect }) => {
    expect((await call('GET', '/v1/usage', {})).status).toBe(401)
    expect((await call('GET', '/v1/usage', (await newCaller({ scopes: ['generate'] })).headers)).status).toBe(403)
  })
})

test('the record of an account with a Stripe customer contains the customer', async ({ expect }) => {
  const caller = await newCaller()
  expect((await configure(caller.account, { stripe_customer: 'cus_42' })).status).toBe(200)
  await addSettledJob(caller, 'job_a', 1)
  await runDurableObjectAlarm(env.ACCOUNT.getByName(caller.account))
  await vi.waitFor(
    async () => expect(await rowsOf(caller.account)).toMatchObject([{ stripe_customer: 'cus_42' }]),
    5000,
  )
})

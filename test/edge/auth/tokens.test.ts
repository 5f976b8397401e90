import { listDurableObjectIds, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { AccountDO } from '../../../edge/accounts/account.ts'
import { checkToken, issueToken } from '../../../edge/auth/tokens.ts'
import { requestOf } from '../support/admissions.ts'
import { type Caller, fetchWorker, newCaller } from '../support/client.ts'
import { peppers } from '../support/config.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { call, operator } from '../support/operator.ts'

afterEach(() => vi.restoreAllMocks())

type Token = { token: string; id: string; expires: number }
const mint = (caller: Pick<Caller, 'headers'>, body: unknown = { scope: 'generate', budget_microdollars: 1000 }) =>
  call<Token>('POST', '/v1/tokens', caller.headers, body)
const createBearer = (token: string) => ({ authorization: `Bearer ${token}` })
const NO_JOB = `job_${'0'.repeat(32)}`

async function admit(token: string, price: number) {
  const credential = (await checkToken(peppers, token))!
  const job = `job_${crypto.randomUUID()}`
  const account = env.ACCOUNT.getByName(credential.account)
  return { job, account, admission: await account.admit(requestOf(credential, { job, price })) }
}

describe('a browser token', () => {
  test('is self-contained, and invalid if any character differs', async ({ expect }) => {
    const grant = { scope: 'generate', budget: 5000, expires: 2_000_000_000 } as const
    const { token, id } = await issueToken(peppers, { account: 'acme', keyId: '0123456789ab' }, grant)
    expect(token).toMatch(/^ost_acme_0123456789ab_[0-9a-f]{12}_generate_2000000000_5000_2[0-9a-f]{32}$/)
    expect(await checkToken(peppers, token)).toEqual({
      account: 'acme',
      keyId: '0123456789ab',
      token: { ...grant, id },
    })
    const changed = [...token].map((was, at) => token.slice(0, at) + (was === '0' ? '1' : '0') + token.slice(at + 1))
    const checked = await Promise.all(changed.map((text) => checkToken(peppers, text)))
    expect(checked.every((credential) => credential === null)).toBe(true)
  })

  test('is limited to its budget, and its spending counts toward its key and its account', async ({ expect }) => {
    const caller = await newCaller()
    const { status, body } = await mint(caller)
    expect(status).toBe(201)
    const { job, account, admission } = await admit(body.token, 600)
    expect(admission.kind).toBe('admitted')
    expect((await admit(body.token, 401)).admission).toMatchObject({
      kind: 'over_budget',
      holder: 'token',
      available: 400,
    })
    await account.settle(job, { outcome: 'captured', amount: 100 })
    expect((await admit(body.token, 900)).admission.kind).toBe('admitted')
    expect(await account.key(caller.keyId)).toMatchObject({ captured: 100, reserved: 900, open: 1 })
  })

  test('ends with its expiry, with its key, and when its key loses the scope', async ({ expect }) => {
    const caller = await newCaller()
    const { token, expires } = (await mint(caller, { budget_microdollars: 1000, expires_in: 60 })).body
    const look = () => call('GET', `/v1/jobs/${NO_JOB}`, createBearer(token))
    expect((await look()).status).toBe(404)
    const account = env.ACCOUNT.getByName(caller.account)
    await account.changeKey(caller.keyId, { scopes: ['read'] })
    expect((await look()).status).toBe(403)
    await account.changeKey(caller.keyId, { scopes: ['generate'] })
    vi.spyOn(Date, 'now').mockReturnValue(expires * 1000)
    expect(await look()).toMatchObject({ status: 401, body: { detail: expect.stringContaining('expired') } })
    vi.restoreAllMocks()
    await account.revokeKey(caller.keyId)
    expect((await look()).status).toBe(401)
  })

  test('is rejected without a call to the account if it is forged or expired', async ({ expect }) => {
    const who = { account: 'ghost-of-a-token', keyId: '0123456789ab' }
    const { token } = await issueToken(peppers, who, { scope: 'generate', budget: 0, expires: 1 })
    const before = (await listDurableObjectIds(env.ACCOUNT)).length
    for (const text of [token, token.replace('_generate_1_', '_generate_9999999999_')])
      expect((await call('GET', '/v1/usage', createBearer(text))).status).toBe(401)
    expect(await listDurableObjectIds(env.ACCOUNT)).toHaveLength(before)
  })
})

test.for([
  ['GET', '/v1/jobs'],
  ['PUT', '/v1/jobs/a-name'],
  ['GET', '/v1/usage'],
  ['GET', '/v1/keys'],
  ['POST', '/v1/tokens'],
  ['GET', '/v1/webhooks'],
  ['POST', '/v1/webhooks'],
  ['GET', '/v1/webhooks/default/secret'],
  ['GET', '/v1/webhooks/default/deliveries'],
] as const)(
  'a browser token has no access to %s %s, regardless of the rights of its key',
  async ([method, path], { expect }) => {
    const caller = await newCaller({ scopes: ['generate', 'read', 'admin'] })
    const { token } = (await mint(caller)).body
    expect(await call(method, path, createBearer(token), method === 'GET' ? undefined : {})).toMatchObject({
      status: 403,
      body: { detail: 'Browser tokens are not accepted here; use the API key.' },
    })
  },
)

describe('two visitors of one page', () => {
  type Job = { id: string; state: string; images: { url: string }[] }

  /** Two tokens of one key, and a finished job of the first one and of the key. */
  async function createVisitors() {
    const caller = await newCaller({ scopes: ['generate', 'read', 'admin'] })
    fakeGpu(works)
    const minted = await Promise.all([
      mint(caller, { budget_microdollars: 50_000 }),
      mint(caller, { budget_microdollars: 50_000 }),
    ])
    const [first, second] = minted.map(({ body }) => createBearer(body.token))
    const make = async (headers: Record<string, string>, body: object = {}) => {
      const made = await call<Job>('POST', '/v1/jobs', { ...headers, prefer: 'wait=20' }, { prompt: 'a cat', ...body })
      expect(made.body.state).toBe('succeeded')
      return made.body
    }
    return { caller, first: first!, second: second!, mine: await make(first!), keys: await make(caller.headers), make }
  }
  const fileOf = ({ images }: Job) => new URL(images[0]!.url).pathname

  test('see, follow and delete only their own jobs', async ({ expect }) => {
    const { first, second, mine, keys } = await createVisitors()
    const listPaths = (job: Job) => [
      ['GET', `/v1/jobs/${job.id}`],
      ['GET', `/v1/jobs/${job.id}/events`],
      ['GET', `/v1/jobs/${job.id}/receipts`],
      ['GET', fileOf(job)],
      ['POST', `/v1/jobs/${job.id}/cancel`],
      ['DELETE', `/v1/jobs/${job.id}`],
      ['DELETE', fileOf(job)],
      ['DELETE', `/v1/jobs/${job.id}/images`],
    ]
    const readStatus = async (method: string, path: string, headers: Record<string, string>) => {
      const response = await fetchWorker(path, { method, headers })
      await response.body?.cancel()
      return response.status
    }
    for (const [method, path] of [...listPaths(mine), ...listPaths(keys)])
      expect(await readStatus(method!, path!, second), `${method} ${path}`).toBe(404)
    for (const [method, path] of listPaths(mine))
      expect(await readStatus(method!, path!, first), `${method} ${path}`).toBeLessThan(300)
  })

  test('cannot name jobs or webhooks, or reuse images', async ({ expect }) => {
    const { first, make, caller } = await createVisitors()
    await make(caller.headers, { seed: 7 })
    for (const [param, value] of [
      ['webhook', 'https://receiver.example.com/hook'],
      ['reuse', true],
    ] as const)
      expect(await call('POST', '/v1/jobs', first, { prompt: 'a cat', seed: 7, [param]: value })).toMatchObject({
        status: 403,
        body: { error: { code: 'insufficient_scope', param } },
      })
  })

  test('have Idempotency-Keys and retries of their own', async ({ expect }) => {
    const { first, second, make } = await createVisitors()
    const once = { 'idempotency-key': 'order-1' }
    const [one, again, other] = [
      await make({ ...first, ...once }),
      await make({ ...first, ...once }),
      await make({ ...second, ...once }),
    ]
    expect(again.id).toBe(one.id)
    expect(other.id).not.toBe(one.id)
  })
})

describe('POST /v1/tokens', () => {
  test('requires a key with the scope generate; a token can neither create tokens nor manage keys', async ({
    expect,
  }) => {
    expect((await mint(await newCaller({ scopes: ['read'] }))).status).toBe(403)
    const { token } = (await mint(await newCaller())).body
    expect((await mint({ headers: createBearer(token) })).status).toBe(403)
    expect((await call('GET', '/v1/keys', createBearer(token))).status).toBe(403)
  })

  test.for([
    [{}, 'budget_microdollars is missing; it must be a whole number of micro-dollars from 1 to 100000000.'],
    [{ scope: 'read', budget_microdollars: 1 }, 'scope is "read"; it must be "generate"'],
    [
      { budget_microdollars: 1, expires_in: 3601 },
      'expires_in is 3601; it must be a whole number of seconds from 10 to 3600.',
    ],
    [{ budget_microdollars: 0 }, 'budget_microdollars is 0; it must be a whole number of micro-dollars from 1'],
  ] as const)('%j is refused', async ([body, message], { expect }) => {
    expect(await mint(await newCaller(), body)).toMatchObject({
      status: 400,
      body: { detail: expect.stringContaining(message) },
    })
  })

  test('is not for the operator, who has no account', async ({ expect }) => {
    expect((await mint({ headers: operator })).status).toBe(401)
  })
})

test('a page of any origin may call the API and read the rate limit headers', async ({ expect }) => {
  const preflight = await call('OPTIONS', '/v1/images/generations', {
    origin: 'https://shop.example',
    'access-control-request-method': 'POST',
    'access-control-request-headers': 'authorization,content-type',
  })
  expect(preflight.status).toBe(204)
  expect(preflight.headers.get('access-control-allow-headers')).toBe('authorization,content-type')
  const reply = await call('GET', '/v1/usage', { origin: 'https://shop.example' })
  expect(reply.headers.get('access-control-allow-origin')).toBe('*')
  expect(reply.headers.get('access-control-expose-headers')).toContain('retry-after')
})

test('the meter of a token is deleted once the token is unusable', async ({ expect }) => {
  const caller = await newCaller()
  const { body } = await mint(caller)
  const { job, account } = await admit(body.token, 10)
  const readMeters = () =>
    runInDurableObject(account, (object, { storage }) => {
      expect(object).toBeInstanceOf(AccountDO)
      return storage.sql
        .exec<{ id: string }>('SELECT id FROM meters ORDER BY id')
        .toArray()
        .map(({ id }) => id)
    })
  const [kept, token] = [['account', `key:${caller.keyId}`], `token:${caller.keyId}:${body.id}`]
  expect(await readMeters()).toEqual([...kept, token])
  await account.settle(job, { outcome: 'released' })
  const later = Date.now() + 3 * 3600_000
  vi.spyOn(Date, 'now').mockReturnValue(later)
  await runDurableObjectAlarm(account)
  expect(await readMeters()).toEqual(kept)
})

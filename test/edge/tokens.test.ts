import { listDurableObjectIds, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { AccountDO } from '../../edge/account.ts'
import { checkToken, issueToken } from '../../edge/tokens.ts'
import { requestOf } from './admissions.ts'
import { type Caller, newCaller } from './client.ts'
import { call, operator } from './operator.ts'

afterEach(() => vi.restoreAllMocks())

type Token = { token: string; id: string; expires: number }
const mint = (caller: Pick<Caller, 'headers'>, body: unknown = { scope: 'generate', budget_microdollars: 1000 }) =>
  call<Token>('POST', '/v1/tokens', caller.headers, body)
const bearer = (token: string) => ({ authorization: `Bearer ${token}` })
const NO_JOB = `job_${'0'.repeat(32)}`

async function admit(token: string, price: number) {
  const credential = (await checkToken(env.KEY_PEPPER, token))!
  const job = `job_${crypto.randomUUID()}`
  const account = env.ACCOUNT.getByName(credential.account)
  return { job, account, admission: await account.admit(requestOf(credential, { job, price })) }
}

describe('a browser token', () => {
  test('is all in its text, and no other text', async ({ expect }) => {
    const grant = { scope: 'generate', budget: 5000, expires: 2_000_000_000 } as const
    const { token, id } = await issueToken(env.KEY_PEPPER, { account: 'acme', keyId: '0123456789ab' }, grant)
    expect(token).toMatch(/^ost_acme_0123456789ab_[0-9a-f]{12}_generate_2000000000_5000_2[0-9a-f]{32}$/)
    expect(await checkToken(env.KEY_PEPPER, token)).toEqual({
      account: 'acme',
      keyId: '0123456789ab',
      token: { ...grant, id },
    })
    const changed = [...token].map((was, at) => token.slice(0, at) + (was === '0' ? '1' : '0') + token.slice(at + 1))
    const checked = await Promise.all(changed.map((text) => checkToken(env.KEY_PEPPER, text)))
    expect(checked.every((credential) => credential === null)).toBe(true)
  })

  test('spends its budget and not more, on its key and its account as well', async ({ expect }) => {
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

  test('has one scope', async ({ expect }) => {
    const caller = await newCaller()
    const generating = (await mint(caller)).body.token
    const reading = (await mint(caller, { scope: 'read' })).body.token
    const cancel = async (token: string) => (await call('DELETE', `/v1/jobs/${NO_JOB}`, bearer(token))).status
    expect([await cancel(generating), await cancel(reading)]).toEqual([404, 403])
    expect((await admit(reading, 0)).admission).toEqual({ kind: 'forbidden', scope: 'generate' })
  })

  test('ends with its time, its key, and the key losing the scope', async ({ expect }) => {
    const caller = await newCaller()
    const { token, expires } = (await mint(caller, { scope: 'read', expires_in: 60 })).body
    const look = () => call('GET', `/v1/jobs/${NO_JOB}`, bearer(token))
    expect((await look()).status).toBe(404)
    const account = env.ACCOUNT.getByName(caller.account)
    await account.changeKey(caller.keyId, { scopes: ['generate'] })
    expect((await look()).status).toBe(403)
    await account.changeKey(caller.keyId, { scopes: ['read'] })
    vi.spyOn(Date, 'now').mockReturnValue(expires * 1000)
    expect(await look()).toMatchObject({ status: 401, body: { detail: expect.stringContaining('expired') } })
    vi.restoreAllMocks()
    await account.revokeKey(caller.keyId)
    expect((await look()).status).toBe(401)
  })

  test('forged or expired opens no account', async ({ expect }) => {
    const who = { account: 'ghost-of-a-token', keyId: '0123456789ab' }
    const { token } = await issueToken(env.KEY_PEPPER, who, { scope: 'read', budget: 0, expires: 1 })
    const before = (await listDurableObjectIds(env.ACCOUNT)).length
    for (const text of [token, token.replace('_read_1_', '_read_9999999999_')])
      expect((await call('GET', '/v1/usage', bearer(text))).status).toBe(401)
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
] as const)('a browser token never reaches %s %s, whatever its key may', async ([method, path], { expect }) => {
  const caller = await newCaller({ scopes: ['generate', 'read', 'admin'] })
  for (const scope of ['generate', 'read']) {
    const { token } = (await mint(caller, { scope, budget_microdollars: 1000 })).body
    expect(await call(method, path, bearer(token), method === 'GET' ? undefined : {})).toMatchObject({
      status: 403,
      body: { detail: 'A browser token may not use this; use its API key.' },
    })
  }
})

describe('POST /v1/tokens', () => {
  test('needs a key that has the scope; a token makes no tokens, and manages no keys', async ({ expect }) => {
    const reader = await newCaller({ scopes: ['read'] })
    expect((await mint(reader)).status).toBe(403)
    const { token } = (await mint(reader, { scope: 'read' })).body
    expect((await mint({ headers: bearer(token) }, { scope: 'read' })).status).toBe(403)
    expect((await call('GET', '/v1/keys', bearer(token))).status).toBe(403)
  })

  test.for([
    [{}, 'scope is missing; it must be generate or read.'],
    [{ scope: 'admin' }, 'scope is "admin"; it must be generate or read.'],
    [{ scope: 'read', expires_in: 3601 }, 'expires_in is 3601; it must be a whole number of seconds from 10 to 3600.'],
    [
      { scope: 'generate' },
      'budget_microdollars is 0; a token of scope "generate" must be allowed to spend something.',
    ],
  ] as const)('%j is refused', async ([body, message], { expect }) => {
    expect(await mint(await newCaller(), body)).toMatchObject({ status: 400, body: { detail: message } })
  })

  test('is not for the operator, who has no account', async ({ expect }) => {
    expect((await mint({ headers: operator })).status).toBe(401)
  })
})

test('a page of any origin may call, and read what the limits say', async ({ expect }) => {
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

test('the meter of a token goes once nothing can use it', async ({ expect }) => {
  const caller = await newCaller()
  const { body } = await mint(caller)
  const { job, account } = await admit(body.token, 10)
  const meters = () =>
    runInDurableObject(account, (object, { storage }) => {
      expect(object).toBeInstanceOf(AccountDO)
      return storage.sql
        .exec<{ id: string }>('SELECT id FROM meters ORDER BY id')
        .toArray()
        .map(({ id }) => id)
    })
  const [kept, token] = [['account', `key:${caller.keyId}`], `token:${caller.keyId}:${body.id}`]
  expect(await meters()).toEqual([...kept, token])
  await account.settle(job, { outcome: 'released' })
  const later = Date.now() + 3 * 3600_000
  vi.spyOn(Date, 'now').mockReturnValue(later)
  await runDurableObjectAlarm(account)
  expect(await meters()).toEqual(kept)
})

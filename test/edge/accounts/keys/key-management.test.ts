import { env } from 'cloudflare:workers'
import { describe, test, vi } from 'vitest'
import { issueKey } from '../../../../edge/auth/keys.ts'
import { UNLIMITED } from '../../../../edge/config/limits.ts'
import { type Caller, fetchWorker, newCaller } from '../../support/client.ts'
import { peppers } from '../../support/config.ts'
import { admit } from '../../support/key-calls.ts'
import { call, operator } from '../../support/operator.ts'

type Key = { id: string; key: string; lineage: string; expires: number | null; scopes: string[]; label: string }
const createBearer = (key: string) => ({ authorization: `Bearer ${key}` })
const create = (caller: Caller, body: unknown = {}) => call<Key>('POST', '/v1/keys', caller.headers, body)
const createAdmin = () => newCaller({ scopes: ['generate', 'read', 'admin'] })
const fetchModelsStatus = async (key: string) => (await call('GET', '/v1/models', createBearer(key))).status

describe('a key of scope admin', () => {
  test('manages the keys of its own account without an account name', async ({ expect }) => {
    const caller = await createAdmin()
    const made = await create(caller, { label: 'web', scopes: ['read', 'read'] })
    expect(made).toMatchObject({ status: 201, body: { label: 'web', scopes: ['read'], account: caller.account } })
    const list = await call<{ data: Key[] }>('GET', '/v1/keys', caller.headers)
    expect(list.body.data.map(({ id }) => id)).toEqual([caller.keyId, made.body.id])
    expect(await fetchModelsStatus(made.body.key)).toBe(200)
    expect((await call('DELETE', `/v1/keys/${made.body.id}`, caller.headers)).status).toBe(204)
    expect(await fetchModelsStatus(made.body.key)).toBe(401)
  })

  test('has no access to another account, and keys of other scopes have no access to this API', async ({ expect }) => {
    const [caller, other] = [await createAdmin(), await newCaller()]
    expect(await call('GET', `/v1/keys?account=${other.account}`, caller.headers)).toMatchObject({
      status: 403,
      body: { error: { code: 'insufficient_scope' } },
    })
    expect((await create(caller, { account: other.account })).status).toBe(403)
    expect((await call('GET', `/v1/keys/${other.keyId}`, caller.headers)).status).toBe(404)
    const refused = await create(other)
    expect(refused.status).toBe(403)
    expect(refused.headers.get('www-authenticate')).toContain('scope="admin"')
  })

  test('cannot read or generate images without these scopes', async ({ expect }) => {
    const caller = await newCaller({ scopes: ['admin'] })
    expect((await call('GET', '/v1/usage', caller.headers)).status).toBe(403)
    expect(await admit(caller.key, 1)).toEqual({ kind: 'forbidden', scope: 'generate' })
  })
})

describe('describe and change', () => {
  test('shows the rights and the usage of a key; changes apply immediately', async ({ expect }) => {
    const caller = await createAdmin()
    const { id, key } = (await create(caller, { scopes: ['generate', 'read'] })).body
    await admit(key, 700)
    const path = `/v1/keys/${id}`
    expect((await call('GET', path, caller.headers)).body).toMatchObject({
      used: { spent_microdollars: 0, reserved_microdollars: 700, open_jobs: 1 },
      limits: UNLIMITED,
      created_by: caller.keyId,
    })
    const limits = { total_microdollars: 1000 }
    const changed = await call('PATCH', path, caller.headers, { label: 'capped', limits })
    expect(changed.body).toMatchObject({
      label: 'capped',
      limits: { ...UNLIMITED, ...limits },
      scopes: ['generate', 'read'],
    })
    expect(await admit(key, 301)).toMatchObject({ kind: 'over_budget', by: 'total', available: 300 })
    expect((await admit(key, 300)).kind).toBe('admitted')
    const more = await call('PATCH', path, caller.headers, { limits: { requests_per_minute: 9 } })
    expect(more.body.limits).toEqual({ ...UNLIMITED, ...limits, requests_per_minute: 9 })
    const fewer = await call('PATCH', path, caller.headers, { limits: { total_microdollars: null } })
    expect(fewer.body.limits).toEqual({ ...UNLIMITED, requests_per_minute: 9 })
  })

  test.for([
    [{ scopes: ['root'] }, 'scopes is ["root"]; it must be a list of generate, read, admin.'],
    [{ scopes: [] }, 'scopes is []; it must be a list of generate, read, admin.'],
    [{ limits: { total_microdollars: -1 } }, 'total_microdollars, each null or a whole number from 0.'],
    [{ limits: { rpm: 1 } }, 'limits is {"rpm":1}; it must be an object of requests_per_minute, concurrent_jobs'],
    [{ expires_in: -1 }, 'expires_in is -1; it must be null for never, or a whole number of seconds from now.'],
    [{ id: 'x' }, 'id is not a field of this request; allowed are label, scopes, limits, expires_in.'],
  ] as const)('%j is refused', async ([body, message], { expect }) => {
    const caller = await createAdmin()
    const refused = await call('PATCH', `/v1/keys/${caller.keyId}`, caller.headers, body)
    expect(refused).toMatchObject({ status: 400, body: { detail: expect.stringContaining(message) } })
  })
})

describe('rotation', () => {
  test('creates a key with the same rights; the old key is valid until the end of the overlap', async ({ expect }) => {
    const caller = await createAdmin()
    const first = (await create(caller, { label: 'web', scopes: ['generate'] })).body
    const path = `/v1/keys/${first.id}/rotate`
    const next = await call<Key>('POST', path, caller.headers, { overlap_seconds: 60 })
    expect(next).toMatchObject({
      status: 201,
      body: { label: 'web', scopes: ['generate'], replaces: first.id, lineage: first.id, expires: null },
    })
    expect([await fetchModelsStatus(first.key), await fetchModelsStatus(next.body.key)]).toEqual([200, 200])
    const later = Date.now() + 61_000
    vi.spyOn(Date, 'now').mockReturnValue(later)
    expect([await fetchModelsStatus(first.key), await fetchModelsStatus(next.body.key)]).toEqual([401, 200])
    vi.restoreAllMocks()
  })

  test('does not reset the usage: all keys of the lineage share the limits', async ({ expect }) => {
    const caller = await createAdmin()
    const first = (await create(caller, { scopes: ['generate'], limits: { total_microdollars: 100 } })).body
    expect((await admit(first.key, 80)).kind).toBe('admitted')
    const next = await call<Key>('POST', `/v1/keys/${first.id}/rotate`, caller.headers, {})
    expect(await admit(next.body.key, 21)).toMatchObject({ kind: 'over_budget', available: 20 })
    expect((await admit(next.body.key, 20)).kind).toBe('admitted')
  })

  test('needs no body', async ({ expect }) => {
    const caller = await createAdmin()
    const { id } = (await create(caller)).body
    const { headers } = caller
    expect((await fetchWorker(`/v1/keys/${id}/rotate`, { method: 'POST', headers })).status).toBe(201)
  })

  test('is refused for an ended key, and is not_found for an unknown one', async ({ expect }) => {
    const caller = await createAdmin()
    const { id } = (await create(caller)).body
    await call('DELETE', `/v1/keys/${id}`, caller.headers)
    const fetchStatus = async (of: string) => (await call('POST', `/v1/keys/${of}/rotate`, caller.headers, {})).status
    expect([await fetchStatus(id), await fetchStatus('0123456789ab')]).toEqual([409, 404])
  })
})

test('an expired key is refused like an unknown one', async ({ expect }) => {
  const { key, credential } = await issueKey(peppers, 'expiring')
  await env.ACCOUNT.getByName('expiring').addKey(credential, { expires: Date.now() - 1 })
  const refused = await call('GET', '/v1/models', createBearer(key))
  expect(refused).toMatchObject({ status: 401, body: { error: { code: 'invalid_api_key' } } })
  expect(await admit(key, 1)).toEqual({ kind: 'unauthorized' })
})

test('the operator sets the rights of keys of any account, and must name the account', async ({ expect }) => {
  const { account, keyId } = await newCaller()
  const path = `/v1/keys/${keyId}`
  expect((await call('GET', path, operator)).body).toMatchObject({ error: { param: 'account' } })
  const changed = await call('PATCH', `${path}?account=${account}`, operator, { expires_in: 3600 })
  expect(changed.body.expires).toBeGreaterThan(Date.now() / 1000)
})

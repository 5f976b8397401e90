import { listDurableObjectIds } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { describe, test } from 'vitest'
import { checkKey, issueKey } from '../../../edge/auth/keys.ts'
import { fetchWorker, newCaller, problemOf } from '../support/client.ts'
import { createConfigWith } from '../support/config.ts'

const peppersOf = (KEY_PEPPER: string) => createConfigWith({ KEY_PEPPER }).peppers
const OLD_TEXT = `1:${'a'.repeat(32)}`
const OLD = peppersOf(OLD_TEXT)
const NEW = peppersOf(`2:${'b'.repeat(32)}`)

describe('a key', () => {
  test('has the documented format, and its tag is valid under its pepper', async ({ expect }) => {
    const { key, credential } = await issueKey(OLD, 'some-account')
    expect(key).toMatch(/^oct_some-account_[0-9a-f]{12}_[0-9a-f]{40}_1[0-9a-f]{24}$/)
    expect(await checkKey(OLD, key)).toEqual(credential)
    expect(credential.secretHash).toMatch(/^[0-9a-f]{64}$/)
    expect(key).not.toContain(credential.secretHash)
    expect((await issueKey(OLD, 'some-account')).key).not.toBe(key)
  })

  test('stays valid after a rotation until its own pepper is removed', async ({ expect }) => {
    const { key } = await issueKey(OLD, 'a')
    expect(await checkKey([...NEW, ...OLD], key)).not.toBeNull()
    expect(await checkKey(NEW, key)).toBeNull()
    expect((await issueKey([...NEW, ...OLD], 'a')).key).toMatch(/_2[0-9a-f]{24}$/)
  })

  test('is refused if any character differs', async ({ expect }) => {
    const { key } = await issueKey(OLD, 'abc')
    const changed = [...key].map((was, at) => key.slice(0, at) + (was === '0' ? '1' : '0') + key.slice(at + 1))
    const checked = await Promise.all(
      [...changed, '', 'oct_', `${key}0`, ` ${key}`, key.toUpperCase()].map((text) => checkKey(OLD, text)),
    )
    expect(checked.every((credential) => credential === null)).toBe(true)
  })
})

test('a pepper that is too short, has no version or is the placeholder is rejected with the name of the variable', ({
  expect,
}) => {
  const example = '1:replace-me-with-at-least-32-random-characters'
  for (const text of ['', 'short', '1:short', `${'a'.repeat(40)}`, `${OLD_TEXT},`, example, `${OLD_TEXT},${example}`])
    expect(() => peppersOf(text)).toThrow('KEY_PEPPER')
})

test('a forged key is rejected before its account is opened', async ({ expect }) => {
  const { key } = await newCaller()
  const before = (await listDurableObjectIds(env.ACCOUNT)).length
  for (const forged of [key.replace(/^oct_[^_]+/, 'oct_ghost'), `${key.slice(0, -3)}000`]) {
    const response = await fetchWorker('/v1/models', { headers: { authorization: `Bearer ${forged}` } })
    expect(response.status).toBe(401)
  }
  expect(await listDurableObjectIds(env.ACCOUNT)).toHaveLength(before)
})

describe('/v1/keys, for the operator', () => {
  const operator = { authorization: `Bearer ${env.OCTET_ADMIN_TOKEN}`, 'content-type': 'application/json' }
  const create = (body: unknown, headers: Record<string, string> = operator) =>
    fetchWorker('/v1/keys', { method: 'POST', headers, body: JSON.stringify(body) })
  const fetchModels = (key: string) => fetchWorker('/v1/models', { headers: { authorization: `Bearer ${key}` } })

  test('creates, lists and revokes a key, which is shown once', async ({ expect }) => {
    const made = await create({ account: 'acme', label: 'laptop' })
    const { id, key } = (await made.json()) as { id: string; key: string }
    expect([made.status, made.headers.get('cache-control')]).toEqual([201, 'no-store'])
    expect((await fetchModels(key)).status).toBe(200)

    const list = await fetchWorker('/v1/keys?account=acme', { headers: operator })
    const text = await list.text()
    const times = { created: expect.any(Number), expires: null, revoked: null }
    const [listed] = JSON.parse(text).data
    expect(listed).toMatchObject({ id, label: 'laptop', scopes: ['generate', 'read'], lineage: id, ...times })
    expect(text).not.toContain(key.split('_')[3])

    const revoke = () => fetchWorker(`/v1/keys/${id}?account=acme`, { method: 'DELETE', headers: operator })
    expect((await revoke()).status).toBe(204)
    expect((await fetchModels(key)).status).toBe(401)
    expect((await revoke()).status).toBe(204)
  })

  test('describes the problem', async ({ expect }) => {
    const account = await create({ account: 'Not_OK' })
    expect((await problemOf(account)).detail).toBe(
      'account is "Not_OK"; it must be 1 to 32 of a-z, 0-9 and "-", not at an end.',
    )
    expect((await problemOf(await create({ account: 'a', scope: 'x' }))).error.param).toBe('scope')
    expect((await problemOf(await fetchWorker('/v1/keys', { headers: operator }))).detail).toContain(
      'account is missing',
    )
    const unknown = await fetchWorker('/v1/keys/0123456789ab?account=acme', { method: 'DELETE', headers: operator })
    expect(unknown.status).toBe(404)
  })

  test('is closed to all others, including callers with keys', async ({ expect }) => {
    const { headers } = await newCaller()
    for (const authorization of [headers.authorization!, 'Bearer operator-token', 'Bearer ', '']) {
      const response = await create({ account: 'a' }, { ...operator, authorization })
      expect([response.status, (await problemOf(response)).error.code]).toEqual(
        authorization === headers.authorization ? [403, 'insufficient_scope'] : [401, 'invalid_admin_token'],
      )
    }
  })
})

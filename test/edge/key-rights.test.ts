// A key of scope admin grants nothing beyond what it has itself, and what has ended stays so.
import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import fc from 'fast-check'
import { afterEach, describe, test, vi } from 'vitest'
import { AccountDO } from '../../edge/account.ts'
import { findKey, type KeyChange, migrateKeys } from '../../edge/account-keys.ts'
import type { Admission } from '../../edge/admission.ts'
import { changeKey, createKey, MOST_ACTIVE_KEYS, replaceKey } from '../../edge/key-management.ts'
import { excessOf, lowestLimits } from '../../edge/key-rights.ts'
import { checkKey, SCOPES } from '../../edge/keys.ts'
import { UNLIMITED } from '../../edge/limits.ts'
import { requestOf } from './admissions.ts'
import { type Caller, newCaller } from './client.ts'
import { call, operator } from './operator.ts'

afterEach(() => vi.restoreAllMocks())

type Key = { id: string; key: string; lineage: string; expires: number | null; created_by: string | null }
type Listed = Key & { creator_revoked: boolean }
type With = { headers: Record<string, string> }

const ALL = ['generate', 'read', 'admin'] as const
const CAP = 1000
const HOUR = 3600
const bearer = (key: string) => ({ headers: { authorization: `Bearer ${key}` } })
const create = (by: With, body: unknown = {}) => call<Key>('POST', '/v1/keys', by.headers, body)
const patch = (by: With, id: string, body: unknown) => call<Key>('PATCH', `/v1/keys/${id}`, by.headers, body)
const rotate = (by: With, id: string, body: unknown = {}) =>
  call<Key>('POST', `/v1/keys/${id}/rotate`, by.headers, body)
const revoke = (by: With, id: string) => call('DELETE', `/v1/keys/${id}`, by.headers)
const byOperator = (account: string, id: string, body: unknown) =>
  call<Key>('PATCH', `/v1/keys/${id}?account=${account}`, operator, body)
const list = async (by: With) => (await call<{ data: Listed[] }>('GET', '/v1/keys', by.headers)).body.data
const refused = (param?: string) => ({
  status: 403,
  body: { error: { code: 'insufficient_scope', ...(param && { param }) } },
})

async function admit(key: string, price: number): Promise<Admission> {
  const credential = (await checkKey(env.KEY_PEPPER, key))!
  return env.ACCOUNT.getByName(credential.account).admit(requestOf(credential, { price }))
}

const admin = (options: KeyChange = {}): Promise<Caller> =>
  newCaller({ scopes: [...ALL], ...options, limits: { ...UNLIMITED, ...options.limits } })
/** An admin key that may spend CAP in all, and ends in an hour. */
const capped = () => admin({ limits: { total_microdollars: CAP }, expires: Date.now() + HOUR * 1000 })

describe('a capped key of scope admin', () => {
  test.for([
    [{ limits: { total_microdollars: null } }, 'its cap'],
    [{ limits: { total_microdollars: CAP + 1 } }, 'its cap'],
    [{ limits: { requests_per_minute: 5 } }, 'another limit'],
    [{ expires_in: null }, 'its end'],
    [{ expires_in: 60 }, 'its end'],
    [{ scopes: ['generate'] }, 'its scopes'],
    [{ label: 'x', limits: { total_microdollars: null } }, 'its cap, beside its label'],
  ] as const)('does not change itself: %j, %s', async ([body], { expect }) => {
    const caller = await capped()
    expect(await patch(caller, caller.keyId, body)).toMatchObject(refused())
    expect((await byOperator(caller.account, caller.keyId, body)).status).toBe(200)
  })

  test('changes its label, and revokes itself', async ({ expect }) => {
    const caller = await capped()
    expect(await patch(caller, caller.keyId, { label: 'mine' })).toMatchObject({ status: 200, body: { label: 'mine' } })
    expect((await revoke(caller, caller.keyId)).status).toBe(204)
    expect((await call('GET', '/v1/keys', caller.headers)).status).toBe(401)
  })

  test.for([
    [{ limits: { total_microdollars: null } }, 'total_microdollars'],
    [{ limits: { total_microdollars: CAP + 1 } }, 'total_microdollars'],
    [{ expires_in: null }, 'expires_in'],
    [{ expires_in: 2 * HOUR }, 'expires_in'],
  ] as const)('makes no key beyond itself: %j', async ([body, param], { expect }) => {
    const caller = await capped()
    expect(await create(caller, body)).toMatchObject(refused(param))
    const { id } = (await create(caller)).body
    expect(await patch(caller, id, body)).toMatchObject(refused(param))
  })

  test('makes keys that have its own limits and end where none are named', async ({ expect }) => {
    const caller = await capped()
    const { body } = await create(caller, { limits: { requests_per_minute: 5 } })
    expect(body).toMatchObject({
      limits: { ...UNLIMITED, total_microdollars: CAP, requests_per_minute: 5 },
      expires: expect.any(Number),
      created_by: caller.keyId,
    })
  })

  test('gains no allowance by making keys: they spend its own', async ({ expect }) => {
    const caller = await capped()
    const [first, second] = [(await create(caller, { scopes: [...ALL] })).body, (await create(caller)).body]
    const third = (await create(bearer(first.key))).body
    expect((await admit(first.key, 400)).kind).toBe('admitted')
    expect((await admit(third.key, 400)).kind).toBe('admitted')
    const over = { kind: 'over_budget', by: 'total', available: 200 }
    expect(await admit(second.key, 201)).toMatchObject({ ...over, holder: 'creator' })
    expect(await admit(third.key, 201)).toMatchObject({ ...over, holder: 'creator' })
    expect(await admit(caller.key, 201)).toMatchObject({ ...over, holder: 'key' })
    expect((await admit(second.key, 200)).kind).toBe('admitted')
  })

  test('reaches no key that it did not make, except to revoke it', async ({ expect }) => {
    const caller = await capped()
    const { headers } = caller
    const path = `/v1/keys?account=${caller.account}`
    const other = (
      await call<Key>('POST', path, operator, { account: caller.account, limits: { total_microdollars: 1 } })
    ).body
    expect(await patch({ headers }, other.id, { limits: { total_microdollars: 2 } })).toMatchObject(refused())
    expect(await rotate({ headers }, other.id)).toMatchObject(refused())
    expect((await patch({ headers }, other.id, { label: 'seen' })).status).toBe(200)
    expect((await revoke({ headers }, other.id)).status).toBe(204)
  })

  test('renews itself by rotation with the same cap, meter and end', async ({ expect }) => {
    const caller = await capped()
    expect((await admit(caller.key, 600)).kind).toBe('admitted')
    const next = await rotate(caller, caller.keyId)
    expect(next).toMatchObject({ status: 201, body: { lineage: caller.keyId, created_by: caller.keyId } })
    expect(next.body.expires! * 1000).toBeLessThanOrEqual(Date.now() + HOUR * 1000)
    expect(await admit(next.body.key, 401)).toMatchObject({ kind: 'over_budget', available: 400, holder: 'key' })
    // The line is one: the old key may not raise the new one, nor the new one the old.
    expect(await patch(caller, next.body.id, { limits: { total_microdollars: null } })).toMatchObject(refused())
    expect(await patch(bearer(next.body.key), caller.keyId, { expires_in: null })).toMatchObject(refused())
  })

  test('is bound by a change of the operator in all keys of its line', async ({ expect }) => {
    const caller = await capped()
    const next = (await rotate(caller, caller.keyId)).body
    await byOperator(caller.account, next.id, { limits: { total_microdollars: 10 } })
    expect(await admit(caller.key, 11)).toMatchObject({ kind: 'over_budget', available: 10 })
  })
})

describe('any key of scope admin', () => {
  test('grants no scope that it lacks: by a new key, a change or a rotation', async ({ expect }) => {
    const caller = await newCaller({ scopes: ['admin'] })
    expect(await create(caller)).toMatchObject(refused('scopes'))
    expect(await create(caller, { scopes: ['generate'] })).toMatchObject(refused('scopes'))
    const made = await create(caller, { scopes: ['admin'] })
    expect(made.status).toBe(201)
    expect(await patch(caller, made.body.id, { scopes: ['admin', 'generate'] })).toMatchObject(refused('scopes'))
    const path = `/v1/keys?account=${caller.account}`
    const { body } = await call<Key>('POST', path, operator, { account: caller.account })
    expect(await rotate(caller, body.id)).toMatchObject(refused('scopes'))
  })

  test('changes nothing of itself but its label, without limits too', async ({ expect }) => {
    const caller = await admin()
    for (const body of [{ limits: { concurrent_jobs: 5 } }, { scopes: ['admin'] }, { expires_in: HOUR }])
      expect(await patch(caller, caller.keyId, body)).toMatchObject(refused())
  })

  test('does not change the keys that it descends from, nor rotates them', async ({ expect }) => {
    const caller = await admin()
    const child = (await create(caller, { scopes: [...ALL] })).body
    const grandchild = (await create(bearer(child.key), { scopes: [...ALL] })).body
    for (const above of [caller.keyId, child.id]) {
      expect(await patch(bearer(grandchild.key), above, { limits: { concurrent_jobs: 5 } })).toMatchObject(refused())
      expect(await rotate(bearer(grandchild.key), above)).toMatchObject(refused())
    }
    expect(await create(bearer(grandchild.key))).toMatchObject({
      status: 403,
      body: { detail: expect.stringContaining('made by a key that a key made') },
    })
  })

  test('without limits manages all keys of its account', async ({ expect }) => {
    const caller = await admin()
    const path = `/v1/keys?account=${caller.account}`
    const { id } = (await call<Key>('POST', path, operator, { account: caller.account })).body
    expect((await patch(caller, id, { limits: { concurrent_jobs: 5 } })).status).toBe(200)
    expect((await rotate(caller, id)).status).toBe(201)
  })

  test('that was revoked meanwhile changes nothing', async ({ expect }) => {
    const caller = await admin()
    const { id } = (await create(caller)).body
    const account = env.ACCOUNT.getByName(caller.account)
    await account.revokeKey(caller.keyId)
    const credential = { account: caller.account, keyId: '0123456789ab', secretHash: 'x' }
    const outcomes = [
      await account.addKey(credential, {}, caller.keyId),
      await account.changeKey(id, { expires: null }, caller.keyId),
      await account.rotateKey(id, credential, 0, caller.keyId),
    ]
    expect(outcomes.map(({ kind }) => kind)).toEqual(['unauthorised', 'unauthorised', 'unauthorised'])
  })
})

describe('a key that has ended', () => {
  test.for(['expired', 'revoked'] as const)('%s stays so, for a key and for the operator', async (how, { expect }) => {
    const caller = await admin()
    const { id, key } = (await create(caller, { expires_in: 10 })).body
    if (how === 'revoked') await revoke(caller, id)
    else vi.spyOn(Date, 'now').mockReturnValue(Date.now() + 11_000)
    const detail = `The key ${id} ${how === 'revoked' ? 'was revoked' : 'has expired'} and stays so; make a new one.`
    const answer = { status: 409, body: { detail, error: { code: 'key_ended' } } }
    for (const body of [
      { expires_in: null },
      { expires_in: HOUR },
      { scopes: ['read'] },
      { limits: { concurrent_jobs: 1 } },
    ]) {
      expect(await patch(caller, id, body)).toMatchObject(answer)
      expect(await byOperator(caller.account, id, body)).toMatchObject(answer)
    }
    expect(await rotate(caller, id)).toMatchObject(answer)
    expect((await patch(caller, id, { label: 'ended' })).status).toBe(200)
    expect((await call('GET', '/v1/models', bearer(key).headers)).status).toBe(401)
  })
})

test('keys made by a revoked key are shown as such, however far down', async ({ expect }) => {
  const caller = await admin()
  const child = (await create(caller, { scopes: [...ALL] })).body
  const renewed = (await rotate(bearer(child.key), child.id)).body
  const grandchild = (await create(bearer(renewed.key), { scopes: ['generate'] })).body
  const other = (await create(caller)).body
  const flags = async () =>
    Object.fromEntries((await list(caller)).map(({ id, creator_revoked }) => [id, creator_revoked]))
  expect(Object.values(await flags())).toEqual([false, false, false, false, false])
  await revoke(caller, child.id)
  expect(await flags()).toEqual({
    [caller.keyId]: false,
    [child.id]: false,
    [renewed.id]: true,
    [grandchild.id]: true,
    [other.id]: false,
  })
  expect((await list(caller)).map(({ created_by }) => created_by)).toEqual(
    [null, caller.keyId, child.id, renewed.id, caller.keyId], //
  )
})

describe('the number of keys', () => {
  /** Works on the account's SQLite itself: a hundred requests would take long. */
  const within = (caller: Caller, work: (sql: SqlStorage) => void) =>
    runInDurableObject(env.ACCOUNT.getByName(caller.account), (object, { storage }) => {
      if (!(object instanceof AccountDO)) throw new Error('not an account')
      work(storage.sql)
    })
  const credential = (i: number) => ({ account: 'x', keyId: i.toString(16).padStart(12, '0'), secretHash: `${i}` })
  const count = (sql: SqlStorage) => sql.exec<{ n: number }>('SELECT count(*) AS n FROM keys').one().n

  test('has a bound on those that are active; one that ends makes place', async ({ expect }) => {
    const caller = await admin()
    await within(caller, (sql) => {
      for (let i = 1; i < MOST_ACTIVE_KEYS; i++) createKey(sql, credential(i), {}, null)
    })
    const full = { status: 409, body: { error: { code: 'too_many_keys' } } }
    expect(await create(caller)).toMatchObject(full)
    expect(await rotate(caller, credential(1).keyId)).toMatchObject(full)
    expect((await rotate(caller, credential(1).keyId, { overlap_seconds: 0 })).status).toBe(201)
    expect(await create(caller)).toMatchObject(full)
    await revoke(caller, credential(2).keyId)
    expect((await create(caller)).status).toBe(201)
  })

  test('has a bound on all: the first that ended goes, but not what keys descend from', async ({ expect }) => {
    const caller = await admin()
    await within(caller, (sql) => {
      const now = Date.now()
      vi.spyOn(Date, 'now').mockImplementation(() => now)
      createKey(sql, credential(1), { scopes: [...ALL] }, null)
      createKey(sql, credential(2), {}, credential(1).keyId)
      for (let i = 3; i < 1100; i++) {
        createKey(sql, credential(i), {}, null)
        vi.spyOn(Date, 'now').mockImplementation(() => now + i)
        sql.exec('UPDATE keys SET revoked = ? WHERE id = ?', now + i, credential(i).keyId)
        if (i === 3) sql.exec('UPDATE keys SET revoked = ? WHERE id = ?', now, credential(1).keyId)
      }
      expect(count(sql)).toBe(1000)
      const kept = sql.exec<{ id: string }>('SELECT id FROM keys ORDER BY created, rowid LIMIT 4').toArray()
      expect(kept.map(({ id }) => id)).toEqual([
        caller.keyId,
        credential(1).keyId,
        credential(2).keyId,
        credential(103).keyId,
      ])
    })
  })

  test('of a key that rotates itself for years stays bounded', async ({ expect }) => {
    const caller = await admin()
    await within(caller, (sql) => {
      let latest = caller.keyId
      for (let i = 1; i < 1200; i++) {
        expect(replaceKey(sql, latest, credential(i), 0, latest).kind).toBe('done')
        latest = credential(i).keyId
      }
      expect(count(sql)).toBe(1000)
      expect(changeKey(sql, latest, { label: 'still' }, latest)).toMatchObject({
        kind: 'done',
        key: { label: 'still' },
      })
    })
  })
})

test('no sequence of management raises what an admin key and its descendants may spend or do', async ({ expect }) => {
  const rights = fc.record(
    {
      scopes: fc.uniqueArray(fc.constantFrom(...SCOPES), { minLength: 1 }),
      limits: fc.record({ total_microdollars: fc.option(fc.integer({ min: 0, max: 2 * CAP })) }, { requiredKeys: [] }),
      expires: fc.option(fc.integer({ min: 0, max: 2 * HOUR * 1000 })),
    },
    { requiredKeys: [] },
  )
  const step = fc.record({
    what: fc.constantFrom('create' as const, 'change' as const, 'rotate' as const),
    by: fc.nat(),
    target: fc.nat(),
    given: rights,
    overlap: fc.constantFrom(0, HOUR * 1000),
  })
  type Step = typeof step extends fc.Arbitrary<infer T> ? T : never
  const caller = await capped()
  const stranger = { account: 'x', keyId: 'ffffffffffff', secretHash: 's' }
  const start = Date.now()
  const undone = new Error('undone')
  await runInDurableObject(env.ACCOUNT.getByName(caller.account), (_, { storage }) => {
    const { sql } = storage
    createKey(sql, stranger, { scopes: ['generate'], limits: { total_microdollars: 5 } }, null)
    const [before] = sql.exec('SELECT * FROM keys WHERE id = ?', stranger.keyId).toArray()
    const own = {
      scopes: [...ALL],
      limits: { ...UNLIMITED, total_microdollars: CAP },
      expires: start + HOUR * 1000 + 1000,
    }
    const run = (steps: Step[]) => {
      // The keys that the capped key has the secrets of.
      const held = [caller.keyId]
      for (const [i, { what, by, target, given, overlap }] of steps.entries()) {
        const manager = held[by % held.length]!
        const at = [...held, stranger.keyId][target % (held.length + 1)]!
        const next = { account: 'x', keyId: (i + 1).toString(16).padStart(12, '0'), secretHash: 's' }
        const change = { ...given, ...(given.expires != null && { expires: start + given.expires }) } as KeyChange
        const works = {
          create: () => createKey(sql, next, change, manager),
          change: () => changeKey(sql, at, change, manager),
          rotate: () => replaceKey(sql, at, next, Date.now() + overlap, manager),
        }
        const outcome = works[what]()
        if (outcome.kind !== 'done') continue
        if (what !== 'change') held.push(outcome.key.id)
        // A change of nothing is allowed of any key.
        if (at !== stranger.keyId || what !== 'change') expect(excessOf(outcome.key, own)).toEqual([])
      }
      expect(sql.exec('SELECT * FROM keys WHERE id = ?', stranger.keyId).toArray()).toEqual([before])
      throw undone
    }
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
        try {
          storage.transactionSync(() => run(steps))
        } catch (cause) {
          if (cause !== undone) throw cause
        }
      }),
      { numRuns: 300 },
    )
  })
})

test('a table of keys of an older version gets its new column, and keeps its keys', async ({ expect }) => {
  const caller = await admin()
  await runInDurableObject(env.ACCOUNT.getByName(caller.account), (_, { storage }) => {
    storage.sql.exec('ALTER TABLE keys DROP COLUMN created_by')
    for (const _ of [1, 2]) migrateKeys(storage.sql)
    expect(findKey(storage.sql, caller.keyId)).toMatchObject({ id: caller.keyId, created_by: null })
  })
  expect(await create(caller)).toMatchObject({ status: 201, body: { created_by: caller.keyId } })
})

test('the lowest of several limits holds; a null is none', ({ expect }) => {
  const [a, b] = [
    { ...UNLIMITED, concurrent_jobs: 5 },
    { ...UNLIMITED, concurrent_jobs: 3, daily_microdollars: 9 },
  ]
  expect(lowestLimits([a, b])).toEqual({ ...UNLIMITED, concurrent_jobs: 3, daily_microdollars: 9 })
  expect(lowestLimits([UNLIMITED])).toEqual(UNLIMITED)
})

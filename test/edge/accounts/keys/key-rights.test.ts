// A key with the scope admin cannot grant more than its own rights.
import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import fc from 'fast-check'
import { afterEach, describe, test, vi } from 'vitest'
import type { KeyChange } from '../../../../edge/accounts/keys/key-info.ts'
import { changeKey, createKey, replaceKey } from '../../../../edge/accounts/keys/key-management.ts'
import { combineLimits, excessOf } from '../../../../edge/accounts/keys/key-rights.ts'
import { SCOPES } from '../../../../edge/auth/scopes.ts'
import { UNLIMITED } from '../../../../edge/config/limits.ts'
import { newCaller } from '../../support/client.ts'
import {
  ALL,
  admit,
  CAP,
  callByOperator,
  create,
  createBearer,
  createScopeRefusal,
  HOUR,
  type Key,
  newAdmin,
  newCappedAdmin,
  patch,
  revoke,
  rotate,
} from '../../support/key-calls.ts'
import { call, operator } from '../../support/operator.ts'

afterEach(() => vi.restoreAllMocks())

describe('a capped key of scope admin', () => {
  test.for([
    [{ limits: { total_microdollars: null } }, 'its cap'],
    [{ limits: { total_microdollars: CAP + 1 } }, 'its cap'],
    [{ limits: { requests_per_minute: 5 } }, 'another limit'],
    [{ expires_in: null }, 'its end'],
    [{ expires_in: 60 }, 'its end'],
    [{ scopes: ['generate'] }, 'its scopes'],
    [{ label: 'x', limits: { total_microdollars: null } }, 'its cap, beside its label'],
  ] as const)('cannot change itself: %j, %s', async ([body], { expect }) => {
    const caller = await newCappedAdmin()
    expect(await patch(caller, caller.keyId, body)).toMatchObject(createScopeRefusal())
    expect((await callByOperator(caller.account, caller.keyId, body)).status).toBe(200)
  })

  test('changes its label, and revokes itself', async ({ expect }) => {
    const caller = await newCappedAdmin()
    expect(await patch(caller, caller.keyId, { label: 'mine' })).toMatchObject({ status: 200, body: { label: 'mine' } })
    expect((await revoke(caller, caller.keyId)).status).toBe(204)
    expect((await call('GET', '/v1/keys', caller.headers)).status).toBe(401)
  })

  test.for([
    [{ limits: { total_microdollars: null } }, 'total_microdollars'],
    [{ limits: { total_microdollars: CAP + 1 } }, 'total_microdollars'],
    [{ expires_in: null }, 'expires_in'],
    [{ expires_in: 2 * HOUR }, 'expires_in'],
  ] as const)('cannot create a key with more rights: %j', async ([body, param], { expect }) => {
    const caller = await newCappedAdmin()
    expect(await create(caller, body)).toMatchObject(createScopeRefusal(param))
    const { id } = (await create(caller)).body
    expect(await patch(caller, id, body)).toMatchObject(createScopeRefusal(param))
  })

  test('creates keys with its own limits and expiry by default', async ({ expect }) => {
    const caller = await newCappedAdmin()
    const { body } = await create(caller, { limits: { requests_per_minute: 5 } })
    expect(body).toMatchObject({
      limits: { ...UNLIMITED, total_microdollars: CAP, requests_per_minute: 5 },
      expires: expect.any(Number),
      created_by: caller.keyId,
    })
  })

  test('does not increase its budget by creating keys: their spending counts toward its own', async ({ expect }) => {
    const caller = await newCappedAdmin()
    const [first, second] = [(await create(caller, { scopes: [...ALL] })).body, (await create(caller)).body]
    const third = (await create(createBearer(first.key))).body
    expect((await admit(first.key, 400)).kind).toBe('admitted')
    expect((await admit(third.key, 400)).kind).toBe('admitted')
    const over = { kind: 'over_budget', by: 'total', available: 200 }
    expect(await admit(second.key, 201)).toMatchObject({ ...over, holder: 'creator' })
    expect(await admit(third.key, 201)).toMatchObject({ ...over, holder: 'creator' })
    expect(await admit(caller.key, 201)).toMatchObject({ ...over, holder: 'key' })
    expect((await admit(second.key, 200)).kind).toBe('admitted')
  })

  test('cannot change, rotate or revoke a key that it did not create', async ({ expect }) => {
    const caller = await newCappedAdmin()
    const { headers } = caller
    const path = `/v1/keys?account=${caller.account}`
    const other = (
      await call<Key>('POST', path, operator, { account: caller.account, limits: { total_microdollars: 1 } })
    ).body
    expect(await patch({ headers }, other.id, { limits: { total_microdollars: 2 } })).toMatchObject(
      createScopeRefusal(),
    )
    expect(await rotate({ headers }, other.id)).toMatchObject(createScopeRefusal())
    expect(await patch({ headers }, other.id, { label: 'seen' })).toMatchObject(createScopeRefusal())
    expect(await revoke({ headers }, other.id)).toMatchObject(createScopeRefusal())
  })

  test('keeps its cap, meter and expiry in a rotation', async ({ expect }) => {
    const caller = await newCappedAdmin()
    expect((await admit(caller.key, 600)).kind).toBe('admitted')
    const next = await rotate(caller, caller.keyId)
    expect(next).toMatchObject({ status: 201, body: { lineage: caller.keyId, created_by: caller.keyId } })
    expect(next.body.expires! * 1000).toBeLessThanOrEqual(Date.now() + HOUR * 1000)
    expect(await admit(next.body.key, 401)).toMatchObject({ kind: 'over_budget', available: 400, holder: 'key' })
    // Both keys are of one lineage, so neither may raise the limits of the other.
    expect(await patch(caller, next.body.id, { limits: { total_microdollars: null } })).toMatchObject(
      createScopeRefusal(),
    )
    expect(await patch(createBearer(next.body.key), caller.keyId, { expires_in: null })).toMatchObject(
      createScopeRefusal(),
    )
  })

  test('is subject to limits that the operator sets on any key of its lineage', async ({ expect }) => {
    const caller = await newCappedAdmin()
    const next = (await rotate(caller, caller.keyId)).body
    await callByOperator(caller.account, next.id, { limits: { total_microdollars: 10 } })
    expect(await admit(caller.key, 11)).toMatchObject({ kind: 'over_budget', available: 10 })
  })
})

describe('any key of scope admin', () => {
  test('cannot grant a scope that it lacks, by a new key, a change or a rotation', async ({ expect }) => {
    const caller = await newCaller({ scopes: ['admin'] })
    expect(await create(caller)).toMatchObject(createScopeRefusal('scopes'))
    expect(await create(caller, { scopes: ['generate'] })).toMatchObject(createScopeRefusal('scopes'))
    const made = await create(caller, { scopes: ['admin'] })
    expect(made.status).toBe(201)
    expect(await patch(caller, made.body.id, { scopes: ['admin', 'generate'] })).toMatchObject(
      createScopeRefusal('scopes'),
    )
    const path = `/v1/keys?account=${caller.account}`
    const { body } = await call<Key>('POST', path, operator, { account: caller.account })
    expect(await rotate(caller, body.id)).toMatchObject(createScopeRefusal('scopes'))
  })

  test('cannot rotate its successor, which has a later expiry, but can revoke it', async ({ expect }) => {
    const caller = await newAdmin()
    const next = (await rotate(caller, caller.keyId)).body
    expect(await rotate(caller, next.id)).toMatchObject(createScopeRefusal('expires_in'))
    const last = (await rotate(createBearer(next.key), next.id)).body
    expect((await rotate(createBearer(last.key), next.id)).status).toBe(201)
    expect((await revoke(caller, last.id)).status).toBe(204)
  })

  test('can change only its own label, even without limits', async ({ expect }) => {
    const caller = await newAdmin()
    for (const body of [{ limits: { concurrent_jobs: 5 } }, { scopes: ['admin'] }, { expires_in: HOUR }])
      expect(await patch(caller, caller.keyId, body)).toMatchObject(createScopeRefusal())
  })

  test('cannot change or rotate its ancestors', async ({ expect }) => {
    const caller = await newAdmin()
    const child = (await create(caller, { scopes: [...ALL] })).body
    const grandchild = (await create(createBearer(child.key), { scopes: [...ALL] })).body
    for (const above of [caller.keyId, child.id]) {
      expect(await patch(createBearer(grandchild.key), above, { limits: { concurrent_jobs: 5 } })).toMatchObject(
        createScopeRefusal(),
      )
      expect(await rotate(createBearer(grandchild.key), above)).toMatchObject(createScopeRefusal())
    }
    expect(await create(createBearer(grandchild.key))).toMatchObject({
      status: 403,
      body: { detail: expect.stringContaining('too many generations removed') },
    })
  })

  test('without limits manages all keys of its account', async ({ expect }) => {
    const caller = await newAdmin()
    const path = `/v1/keys?account=${caller.account}`
    const { id } = (await call<Key>('POST', path, operator, { account: caller.account })).body
    expect((await patch(caller, id, { limits: { concurrent_jobs: 5 } })).status).toBe(200)
    expect((await rotate(caller, id)).status).toBe(201)
  })

  test('cannot change anything once it is revoked', async ({ expect }) => {
    const caller = await newAdmin()
    const { id } = (await create(caller)).body
    const account = env.ACCOUNT.getByName(caller.account)
    await account.revokeKey(caller.keyId)
    const credential = { account: caller.account, keyId: '0123456789ab', secretHash: 'x' }
    const outcomes = [
      await account.addKey(credential, {}, caller.keyId),
      await account.changeKey(id, { expires: null }, caller.keyId),
      await account.rotateKey(id, credential, 0, caller.keyId),
    ]
    expect(outcomes.map(({ kind }) => kind)).toEqual(['unauthorized', 'unauthorized', 'unauthorized'])
  })
})

test('no sequence of key management increases the rights or budgets of an admin key and its descendants', async ({
  expect,
}) => {
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
  const caller = await newCappedAdmin()
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
      // The keys with secrets that are known to the holder of the capped key.
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
        // An empty change is allowed for any key.
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

test('the lowest of several limits applies; null is no limit', ({ expect }) => {
  const [a, b] = [
    { ...UNLIMITED, concurrent_jobs: 5 },
    { ...UNLIMITED, concurrent_jobs: 3, daily_microdollars: 9 },
  ]
  expect(combineLimits([a, b])).toEqual({ ...UNLIMITED, concurrent_jobs: 3, daily_microdollars: 9 })
  expect(combineLimits([UNLIMITED])).toEqual(UNLIMITED)
})

test('a limited admin key can neither revoke its ancestors nor delete or export the account', async ({ expect }) => {
  const owner = await newAdmin()
  const weak = (await create(owner, { scopes: ['admin'], limits: { total_microdollars: 1 } })).body
  const by = { authorization: `Bearer ${weak.key}` }
  expect(await call('DELETE', `/v1/keys/${owner.keyId}`, by)).toMatchObject({ status: 403 })
  expect(await call('DELETE', `/v1/account?confirm=${owner.account}`, by)).toMatchObject({ status: 403 })
  expect(await call('GET', '/v1/account/export', by)).toMatchObject({ status: 403 })
  expect((await call('DELETE', `/v1/keys/${weak.id}`, by)).status).toBe(204)
  expect((await call('GET', '/v1/models', by)).status).toBe(401)
})

// Ended keys cannot be reactivated, keys created by a revoked key are marked, and the number of keys is bounded.
import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { AccountDO } from '../../../../edge/accounts/account.ts'
import { changeKey, createKey, MAX_ACTIVE_KEYS, replaceKey } from '../../../../edge/accounts/keys/key-management.ts'
import { findKey } from '../../../../edge/accounts/keys/key-table.ts'
import { createAccountTables } from '../../../../edge/accounts/tables.ts'
import type { Caller } from '../../support/client.ts'
import {
  ALL,
  callByOperator,
  create,
  createBearer,
  HOUR,
  list,
  newAdmin,
  patch,
  revoke,
  rotate,
} from '../../support/key-calls.ts'
import { call } from '../../support/operator.ts'

afterEach(() => vi.restoreAllMocks())

describe('a key that has ended', () => {
  test.for(['expired', 'revoked'] as const)(
    '%s cannot be reactivated, by a key or by the operator',
    async (how, { expect }) => {
      const caller = await newAdmin()
      const { id, key } = (await create(caller, { expires_in: 10 })).body
      if (how === 'revoked') await revoke(caller, id)
      else vi.spyOn(Date, 'now').mockReturnValue(Date.now() + 11_000)
      const detail = `The key ${id} ${how === 'revoked' ? 'was revoked' : 'has expired'} and cannot be reactivated; make a new one.`
      const answer = { status: 409, body: { detail, error: { code: 'key_ended' } } }
      for (const body of [
        { expires_in: null },
        { expires_in: HOUR },
        { scopes: ['read'] },
        { limits: { concurrent_jobs: 1 } },
      ]) {
        expect(await patch(caller, id, body)).toMatchObject(answer)
        expect(await callByOperator(caller.account, id, body)).toMatchObject(answer)
      }
      expect(await rotate(caller, id)).toMatchObject(answer)
      expect((await patch(caller, id, { label: 'ended' })).status).toBe(200)
      expect((await call('GET', '/v1/models', createBearer(key).headers)).status).toBe(401)
    },
  )
})

test('all descendants of a revoked key are marked in lists', async ({ expect }) => {
  const caller = await newAdmin()
  const child = (await create(caller, { scopes: [...ALL] })).body
  const renewed = (await rotate(createBearer(child.key), child.id)).body
  const grandchild = (await create(createBearer(renewed.key), { scopes: ['generate'] })).body
  const other = (await create(caller)).body
  const readFlags = async () =>
    Object.fromEntries((await list(caller)).map(({ id, creator_revoked }) => [id, creator_revoked]))
  expect(Object.values(await readFlags())).toEqual([false, false, false, false, false])
  await revoke(caller, child.id)
  expect(await readFlags()).toEqual({
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
  /** Writes to the account's SQLite directly, because a hundred requests would take long. */
  const within = (caller: Caller, work: (sql: SqlStorage) => void) =>
    runInDurableObject(env.ACCOUNT.getByName(caller.account), (object, { storage }) => {
      if (!(object instanceof AccountDO)) throw new Error('not an account')
      work(storage.sql)
    })
  const createCredential = (i: number) => ({
    account: 'x',
    keyId: i.toString(16).padStart(12, '0'),
    secretHash: `${i}`,
  })
  const count = (sql: SqlStorage) => sql.exec<{ n: number }>('SELECT count(*) AS n FROM keys').one().n

  test('is limited for active keys; the end of one permits another', async ({ expect }) => {
    const caller = await newAdmin()
    await within(caller, (sql) => {
      for (let i = 1; i < MAX_ACTIVE_KEYS; i++) createKey(sql, createCredential(i), {}, null)
    })
    const full = { status: 409, body: { error: { code: 'too_many_keys' } } }
    expect(await create(caller)).toMatchObject(full)
    expect(await rotate(caller, createCredential(1).keyId)).toMatchObject(full)
    expect((await rotate(caller, createCredential(1).keyId, { overlap_seconds: 0 })).status).toBe(201)
    expect(await create(caller)).toMatchObject(full)
    await revoke(caller, createCredential(2).keyId)
    expect((await create(caller)).status).toBe(201)
  })

  test('is limited for all keys: the key that ended first is deleted, unless it has descendants', async ({
    expect,
  }) => {
    const caller = await newAdmin()
    await within(caller, (sql) => {
      const now = Date.now()
      vi.spyOn(Date, 'now').mockImplementation(() => now)
      createKey(sql, createCredential(1), { scopes: [...ALL] }, null)
      createKey(sql, createCredential(2), {}, createCredential(1).keyId)
      for (let i = 3; i < 1100; i++) {
        createKey(sql, createCredential(i), {}, null)
        vi.spyOn(Date, 'now').mockImplementation(() => now + i)
        sql.exec('UPDATE keys SET revoked = ? WHERE id = ?', now + i, createCredential(i).keyId)
        if (i === 3) sql.exec('UPDATE keys SET revoked = ? WHERE id = ?', now, createCredential(1).keyId)
      }
      expect(count(sql)).toBe(1000)
      const kept = sql.exec<{ id: string }>('SELECT id FROM keys ORDER BY created, rowid LIMIT 4').toArray()
      expect(kept.map(({ id }) => id)).toEqual([
        caller.keyId,
        createCredential(1).keyId,
        createCredential(2).keyId,
        createCredential(103).keyId,
      ])
    })
  })

  test('stays bounded over years of rotations', async ({ expect }) => {
    const caller = await newAdmin()
    await within(caller, (sql) => {
      let latest = caller.keyId
      for (let i = 1; i < 1200; i++) {
        expect(replaceKey(sql, latest, createCredential(i), 0, latest).kind).toBe('done')
        latest = createCredential(i).keyId
      }
      expect(count(sql)).toBe(1000)
      expect(changeKey(sql, latest, { label: 'still' }, latest)).toMatchObject({
        kind: 'done',
        key: { label: 'still' },
      })
    })
  })
})

test('a table of keys from an earlier release gets its new column and keeps its keys', async ({ expect }) => {
  const caller = await newAdmin()
  await runInDurableObject(env.ACCOUNT.getByName(caller.account), (_, { storage }) => {
    storage.sql.exec('ALTER TABLE keys DROP COLUMN created_by')
    for (const _ of [1, 2]) createAccountTables(storage.sql)
    expect(findKey(storage.sql, caller.keyId)).toMatchObject({ id: caller.keyId, created_by: null })
  })
  expect(await create(caller)).toMatchObject({ status: 201, body: { created_by: caller.keyId } })
})

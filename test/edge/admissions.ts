// What the tests of the account ask of it.
import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import type { AdmissionRequest } from '../../edge/admission.ts'
import { checkKey } from '../../edge/keys.ts'
import type { Caller } from './client.ts'

export const accountOf = ({ account }: Caller) => env.ACCOUNT.getByName(account)

export async function request(caller: Caller, more: Partial<AdmissionRequest> = {}): Promise<AdmissionRequest> {
  const credential = (await checkKey(env.KEY_PEPPER, caller.key))!
  return { credential, job: `job_${crypto.randomUUID()}`, tier: 'fp8', price: 100, idempotency: null, ...more }
}

export const admit = async (caller: Caller, more: Partial<AdmissionRequest> = {}) =>
  accountOf(caller).admit(await request(caller, more))

export const rows = (caller: Caller, sql: string) =>
  runInDurableObject(accountOf(caller), (_, { storage }) => storage.sql.exec(sql).toArray())

export type Statement = Parameters<SqlStorage['exec']>
/** The database, where `before` sees every statement first. */
export function watched(sql: SqlStorage, before: (...statement: Statement) => void): SqlStorage {
  const exec = (...statement: Statement) => {
    before(...statement)
    return sql.exec(...statement)
  }
  return new Proxy(sql, { get: (_, name) => (name === 'exec' ? exec : Reflect.get(sql, name)) })
}

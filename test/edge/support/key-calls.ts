// Requests of the key tests: creation, change, rotation, revocation and listing of keys, and jobs on their budgets.

import { env } from 'cloudflare:workers'
import type { Admission } from '../../../edge/accounts/admission.ts'
import type { KeyChange } from '../../../edge/accounts/keys/key-info.ts'
import { checkKey } from '../../../edge/auth/keys.ts'
import { UNLIMITED } from '../../../edge/config/limits.ts'
import { requestOf } from './admissions.ts'
import { type Caller, newCaller } from './client.ts'
import { peppers } from './config.ts'
import { call, operator } from './operator.ts'

export type Key = { id: string; key: string; lineage: string; expires: number | null; created_by: string | null }
type ListedKey = Key & { creator_revoked: boolean }
type With = { headers: Record<string, string> }

export const ALL = ['generate', 'read', 'admin'] as const
export const CAP = 1000
export const HOUR = 3600
export const createBearer = (key: string) => ({ headers: { authorization: `Bearer ${key}` } })
export const create = (by: With, body: unknown = {}) => call<Key>('POST', '/v1/keys', by.headers, body)
export const patch = (by: With, id: string, body: unknown) => call<Key>('PATCH', `/v1/keys/${id}`, by.headers, body)
export const rotate = (by: With, id: string, body: unknown = {}) =>
  call<Key>('POST', `/v1/keys/${id}/rotate`, by.headers, body)
export const revoke = (by: With, id: string) => call('DELETE', `/v1/keys/${id}`, by.headers)
export const callByOperator = (account: string, id: string, body: unknown) =>
  call<Key>('PATCH', `/v1/keys/${id}?account=${account}`, operator, body)
export const list = async (by: With) => (await call<{ data: ListedKey[] }>('GET', '/v1/keys', by.headers)).body.data
export const createScopeRefusal = (param?: string) => ({
  status: 403,
  body: { error: { code: 'insufficient_scope', ...(param && { param }) } },
})

export async function admit(key: string, price: number): Promise<Admission> {
  const credential = (await checkKey(peppers, key))!
  return env.ACCOUNT.getByName(credential.account).admit(requestOf(credential, { price }))
}

export const newAdmin = (options: KeyChange = {}): Promise<Caller> =>
  newCaller({ scopes: [...ALL], ...options, limits: { ...UNLIMITED, ...options.limits } })
/** An admin key that may spend CAP in all, and ends in an hour. */
export const newCappedAdmin = () => newAdmin({ limits: { total_microdollars: CAP }, expires: Date.now() + HOUR * 1000 })

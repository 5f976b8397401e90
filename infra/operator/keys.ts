// Client of the worker's API for keys and accounts, for the operator.

import type { Scope } from '../../edge/auth/scopes.ts'
import type { Limits } from '../../edge/config/limits.ts'
import type { AccountReply, DeletionReply, KeyReply, KeyUse } from '../../edge/routes/replies.ts'

export type { AccountReply as Account, DeletionReply as Deletion, KeyReply as Key, Limits }
export type Target = { url: string; token: string }
type NewKey = { label?: string; scopes?: Scope[]; limits?: Partial<Limits>; expires_in?: number | null }

/** Calls the worker as the operator. Throws with the worker's error message if it refuses. */
export async function request({ url, token }: Target, method: string, path: string, body?: unknown): Promise<Response> {
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
  const init = body === undefined ? { method, headers } : { method, headers, body: JSON.stringify(body) }
  const response = await fetch(new URL(path, url), init).catch((cause) => {
    throw new Error(`no worker responds at ${url}; start one with "npm run dev", or set --url`, { cause })
  })
  if (response.ok) return response
  throw new Error(detailOf(await response.text()) ?? `${url} returned ${response.status}`)
}

async function call<T>(target: Target, method: string, path: string, body?: unknown): Promise<T> {
  const text = await (await request(target, method, path, body)).text()
  return (text ? JSON.parse(text) : null) as T
}

function detailOf(text: string): string | null {
  try {
    return (JSON.parse(text) as { detail?: string }).detail ?? null
  } catch {
    return null
  }
}

const keyPathOf = (account: string, id = '', action = '') =>
  `/v1/keys${id && `/${encodeURIComponent(id)}`}${action}?account=${encodeURIComponent(account)}`

/** Creates a key. Its text is returned only here. */
export const createKey = (target: Target, account: string, options: NewKey = {}) =>
  call<KeyReply & { key: string }>(target, 'POST', '/v1/keys', { account, ...options })

export const listKeys = async (target: Target, account: string) =>
  (await call<{ data: KeyReply[] }>(target, 'GET', keyPathOf(account))).data

/** A key and the usage of its lineage. */
export const describeKey = (target: Target, account: string, id: string) =>
  call<KeyReply & { used: KeyUse }>(target, 'GET', keyPathOf(account, id))

/** Replaces a key with a new one. The old one stays valid for `overlapSeconds`. */
export const rotateKey = (target: Target, account: string, id: string, overlapSeconds: number) =>
  call<KeyReply & { key: string }>(target, 'POST', keyPathOf(account, id, '/rotate'), {
    overlap_seconds: overlapSeconds,
  })

/** Revokes a key, immediately and permanently. */
export const revokeKey = (target: Target, account: string, id: string) =>
  call<null>(target, 'DELETE', keyPathOf(account, id))

export const accountPathOf = (account: string, part = '') => `/v1/accounts/${encodeURIComponent(account)}${part}`

export const describeAccount = (target: Target, account: string) =>
  call<AccountReply>(target, 'GET', accountPathOf(account))

/** Changes the given settings of an account. */
export const configureAccount = (target: Target, account: string, settings: object) =>
  call<AccountReply>(target, 'PATCH', accountPathOf(account), settings)

/** Adds credit, once per `id`. */
export const addCredit = (target: Target, account: string, id: string, microdollars: number, note: string) =>
  call<AccountReply>(target, 'POST', accountPathOf(account, '/credits'), {
    id,
    amount_microdollars: microdollars,
    note,
  })

/** Revokes all keys of an account immediately and starts the deletion of its data. */
export const deleteAccount = async (target: Target, account: string) => {
  const path = accountPathOf(account, `?confirm=${encodeURIComponent(account)}`)
  return (await call<{ deletion: DeletionReply }>(target, 'DELETE', path)).deletion
}

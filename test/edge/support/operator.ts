// The operator of the worker under test, and JSON requests of anyone.
import { env } from 'cloudflare:workers'
import { fetchWorker } from './client.ts'

export const operator = { authorization: `Bearer ${env.OCTET_ADMIN_TOKEN}` }

type Reply<T> = { status: number; headers: Headers; body: T }

/** Sends JSON and reads the reply, whatever its status. */
export async function call<T = Record<string, unknown>>(
  method: string,
  path: string,
  headers: Record<string, string>,
  body?: unknown,
): Promise<Reply<T>> {
  const init = { method, headers: { 'content-type': 'application/json', ...headers } }
  const response = await fetchWorker(path, body === undefined ? init : { ...init, body: JSON.stringify(body) })
  const text = await response.text()
  return { status: response.status, headers: response.headers, body: (text ? JSON.parse(text) : null) as T }
}

/** Changes an account's settings as the operator. */
export const configure = (account: string, settings: unknown) =>
  call('PATCH', `/v1/accounts/${account}`, operator, settings)

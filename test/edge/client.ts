// A caller of the worker: an account of its own with a key, and shorthands for requests and for what the account then holds.
import { env, exports } from 'cloudflare:workers'
import { issueKey } from '../../edge/keys.ts'

export const ORIGIN = 'https://octet.test'

export const fetchWorker = (path: string, init?: RequestInit): Promise<Response> =>
  exports.default.fetch(new Request(new URL(path, ORIGIN), init))

export type Caller = { account: string; key: string; keyId: string; headers: Record<string, string> }

let callers = 0
/** A fresh account with one key. */
export async function newCaller(): Promise<Caller> {
  const account = `caller-${++callers}-${crypto.randomUUID().slice(0, 8)}`
  const { key, credential } = await issueKey(env.KEY_PEPPER, account)
  await env.ACCOUNT.getByName(account).addKey(credential, 'test')
  return { account, key, keyId: credential.keyId, headers: { authorization: `Bearer ${key}` } }
}

/** POST /v1/images/generations. */
export function generate(
  caller: Pick<Caller, 'headers'>,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<Response> {
  return fetchWorker('/v1/images/generations', {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...caller.headers, ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })
}

export const ledgerOf = ({ account }: Caller) => env.ACCOUNT.getByName(account).totals()

/** Keys in R2 under an account's results. */
export async function filesOf({ account }: Caller): Promise<string[]> {
  const { objects } = await env.RESULTS.list({ prefix: `results/${account}/` })
  return objects.map(({ key }) => key)
}

export type Problem = {
  type: string
  status: number
  detail: string
  request_id: string
  errors?: { param: string | null; message: string }[]
  error: { message: string; type: string; param: string | null; code: string }
}
export const problemOf = async (response: Response) => (await response.json()) as Problem

export type Generated = {
  created: number
  data: { url?: string; b64_json?: string; seed: number; sha256: string; content_type: string }[]
  size: string
  octet: {
    job: string
    route: string
    tier: string
    model: string
    reason: string
    steps: number
    guidance_scale: number
    attempts: number
    price_microdollars: number
    warnings: { code: string; message: string }[]
    timings: Record<string, number>
  }
}
export const generatedOf = async (response: Response) => (await response.json()) as Generated

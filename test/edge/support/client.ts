// Test callers, each with its own account and key, and shorthands for requests and account state.

import { env, exports } from 'cloudflare:workers'
import type { KeyOptions } from '../../../edge/accounts/keys/key-info.ts'
import { issueKey } from '../../../edge/auth/keys.ts'
import { peppers } from './config.ts'

export const ORIGIN = 'https://octet.test'

export const fetchWorker = (path: string, init?: RequestInit): Promise<Response> =>
  exports.default.fetch(new Request(new URL(path, ORIGIN), init))

export type Caller = { account: string; key: string; keyId: string; headers: Record<string, string> }

let callers = 0
/** Creates an account with one key, by default with scopes generate and read and without limits. */
export async function newCaller(options: Partial<KeyOptions> = {}): Promise<Caller> {
  const account = `caller-${++callers}-${crypto.randomUUID().slice(0, 8)}`
  const { key, credential } = await issueKey(peppers, account)
  await env.ACCOUNT.getByName(account).addKey(credential, { label: 'test', ...options })
  return { account, key, keyId: credential.keyId, headers: { authorization: `Bearer ${key}` } }
}

/** Sends POST /v1/images/generations. */
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

/** Fields allowed in an image request: Octet's own fields and OpenAI's. */
export const IMAGE_FIELDS = [
  ...['prompt', 'negative_prompt', 'n', 'size', 'width', 'height', 'seed', 'steps', 'guidance_scale', 'quality'],
  ...['route', 'tier', 'model', 'response_format', 'output_format', 'output_compression', 'max_cost'],
  ...['max_latency_ms', 'webhook', 'reuse', 'user', 'preview', 'on_disconnect'],
]

/** Sends a request, with a JSON body if `body` is given. */
export function send(
  method: string,
  path: string,
  caller: Pick<Caller, 'headers'>,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Response> {
  const json = body === undefined ? {} : { 'content-type': 'application/json' }
  return fetchWorker(path, {
    method,
    headers: { ...json, ...caller.headers, ...headers },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  })
}

/** Fields of the job resource used by the tests. */
export type JobBody = {
  id: string
  name: string | null
  state: string
  attempt: number
  progress: Record<string, number> | null
  cancel_requested: boolean
  images: { url: string; sha256: string; receipt: string }[]
  error: { code: string; message: string } | null
  price_microdollars: number
}
export const readJob = async (response: Response) => (await response.json()) as JobBody

export const ledgerOf = ({ account }: Caller) => env.ACCOUNT.getByName(account).totals()

/** Lists the R2 keys of an account's results. */
export async function filesOf({ account }: Caller): Promise<string[]> {
  const { objects } = await env.RESULTS.list({ prefix: `results/30d/${account}/` })
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

export type GeneratedJob = {
  created: number
  data: { url?: string; b64_json?: string; seed: number | string; sha256: string; content_type: string }[]
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
export const generatedOf = async (response: Response) => (await response.json()) as GeneratedJob

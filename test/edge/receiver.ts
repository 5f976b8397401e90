// A receiver of webhooks on the public internet, replaced at `fetch`: it records requests and answers as a test wants.
import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, vi } from 'vitest'
import type { JobRecord } from '../../edge/job-record.ts'
import { newJobId } from '../../edge/job-record.ts'
import { type Caller, fetchWorker, newCaller } from './client.ts'

export const RECEIVER = 'https://hooks.octet-customer.com'

export type Received = {
  url: string
  headers: Record<string, string>
  body: string
  redirect: string
  signal: AbortSignal
}
export type Payload = {
  type: string
  timestamp: string
  data: { id: string; state: string; images: { url: string; sha256: string }[]; error: { code: string } | null }
}
type Behaviour = (received: Received, call: number) => number | Response | Promise<number | Response>

/** Answers requests to RECEIVER with a status or a response; every other request goes where it went before. */
export function receiver(behaviour: Behaviour = () => 204): Received[] {
  const calls: Received[] = []
  const spy = vi.spyOn(globalThis, 'fetch')
  const elsewhere = spy.getMockImplementation()
  spy.mockImplementation(async (input, init) => {
    const request = new Request(input, init)
    if (!request.url.startsWith(RECEIVER)) {
      if (elsewhere) return elsewhere(input, init)
      throw new Error(`unexpected fetch of ${request.url}`)
    }
    const { url, redirect, signal } = request
    const received = { url, redirect, signal, headers: Object.fromEntries(request.headers), body: await request.text() }
    calls.push(received)
    const answer = await behaviour(received, calls.length)
    return typeof answer === 'number' ? new Response(null, { status: answer }) : answer
  })
  return calls
}

export const payloadOf = ({ body }: Pick<Received, 'body'>) => JSON.parse(body) as Payload

const managers: Caller[] = []

/** A fresh account with a key that may manage its webhooks. */
export async function newManager(): Promise<Caller> {
  const caller = await newCaller({ scopes: ['generate', 'read', 'admin'] })
  managers.push(caller)
  return caller
}

// What is still pending would be tried again beside the next test. Where that logs while a file ends, vitest's worker waits forever.
afterEach(async () => {
  for (const manager of managers.splice(0))
    await runInDurableObject(outboxOf(manager), (_, { storage }) => {
      storage.sql.exec('DELETE FROM deliveries; DELETE FROM receivers')
    })
})

export const outboxOf = ({ account }: Pick<Caller, 'account'>) => env.WEBHOOK.getByName(account)

/** A request to the webhook API. */
export function api(caller: Caller, method: string, path: string, body?: unknown): Promise<Response> {
  return fetchWorker(`/v1/webhooks${path}`, {
    method,
    headers: { ...caller.headers, ...(body !== undefined && { 'content-type': 'application/json' }) },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  })
}

export type CreatedEndpoint = { id: string; secret: string; public_key: string; keys: { expires: number | null }[] }

export async function addEndpoint(caller: Caller, fields: Record<string, unknown> = {}): Promise<CreatedEndpoint> {
  return (await api(caller, 'POST', '', { url: `${RECEIVER}/in`, ...fields })).json()
}

export type ListedDelivery = {
  event: string
  type: string
  state: string
  url?: string
  next_attempt: string | null
  attempts: { at: string; status: number | null; error: string | null; milliseconds: number }[]
}
export async function deliveriesOf(caller: Caller, endpoint: string, query = ''): Promise<ListedDelivery[]> {
  const reply = await api(caller, 'GET', `/${endpoint}/deliveries${query}`)
  return ((await reply.json()) as { data: ListedDelivery[] }).data
}

/** A job of the caller's that has ended, as JobDO would announce it. */
export function finalJob({ account, keyId }: Caller, change: Partial<JobRecord> = {}): JobRecord {
  const id = newJobId()
  const key = `results/30d/${account}/${id}/0.png`
  const expires_at = Math.floor(Date.now() / 1000) + 3600
  const image = {
    image: 0,
    seed: 5,
    width: 64,
    height: 64,
    content_type: 'image/png',
    bytes: 5,
    sha256: 'a'.repeat(64),
    key,
    expires_at,
    ...{ package: 'a'.repeat(64), device: 'fake' },
  }
  const work = {
    model: 'tiny',
    tier: 'fp8',
    prompt: 'a secret prompt',
    negative_prompt: '',
    width: 64,
    height: 64,
  } as const
  const output = { seed: 5, count: 1, output_format: 'png', output_quality: 90, text_convention: 'diffusers' } as const
  const decision = {
    route: 'turbo',
    tier: 'fp8',
    model: 'tiny',
    endpoint: 'default',
    steps: 4,
    guidanceScale: 1,
  } as const
  return {
    ...{
      id,
      account,
      keyId,
      name: null,
      fingerprint: '',
      origin: 'https://octet.test',
      webhook: null,
      created: Date.now(),
      ...{ token: null, basePrice: 0, digest: '', nextAt: 0, granted: true, retentionDays: 30 as const },
    },
    request: { ...work, ...output, steps: 4, guidance_scale: 1 },
    decision: { ...decision, width: 64, height: 64, reason: 'A test.' },
    ...{
      price: 100,
      state: 'succeeded',
      attempt: 1,
      progress: null,
      images: [image],
      warnings: [],
      timings: null,
      ran: null,
      endpoint: null,
    },
    ...{ error: null, finished: Date.now(), settled: true, announced: false, waiting: null, accepted: null },
    ...{ cancelRequested: false, stepsDone: 0 },
    ...change,
  }
}

/** Waits until a receiver was called so often. */
export const arrived = (calls: Received[], count: number) =>
  vi.waitFor(
    () => {
      if (calls.length < count) throw new Error(`${calls.length} of ${count} arrived`)
    },
    { timeout: 20_000, interval: 20 },
  )

/** Waits until nothing is pending in the caller's outbox. */
export const settled = (caller: Pick<Caller, 'account'>) =>
  vi.waitFor(
    async () => {
      const pending = await runInDurableObject(
        outboxOf(caller),
        (_, { storage }) =>
          storage.sql.exec<{ n: number }>("SELECT count(*) AS n FROM deliveries WHERE state = 'pending'").one().n,
      )
      if (pending > 0) throw new Error(`${pending} are pending`)
    },
    { timeout: 20_000, interval: 20 },
  )

/** Sets the outbox as if a day had passed: leases, breakers and pauses are over, and every pending delivery is due. */
export const passTime = (caller: Pick<Caller, 'account'>) =>
  runInDurableObject(outboxOf(caller), async (_, { storage }) => {
    storage.sql.exec("UPDATE deliveries SET leased_until = 0, due = due - 86400000 WHERE state = 'pending'")
    storage.sql.exec('UPDATE receivers SET open_until = 0, paused_until = 0, next_at = 0 WHERE next_at IS NOT NULL')
    await storage.setAlarm(Date.now())
  })

/** What the outbox stores of a caller's receivers. */
export const receiversOf = (caller: Pick<Caller, 'account'>) =>
  runInDurableObject(outboxOf(caller), (_, { storage }) =>
    storage.sql
      .exec<{ id: string; host: string; failures: number; openings: number; open_until: number; paused_until: number }>(
        'SELECT * FROM receivers ORDER BY id',
      )
      .toArray(),
  )

/** A receiver that answers nothing until `release`, whatever timeout its caller has. */
export function hang(status = 204) {
  const { promise, resolve } = Promise.withResolvers<void>()
  return { answer: () => promise.then(() => status), release: resolve }
}

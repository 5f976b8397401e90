// A caller that manages its webhooks: its requests to the webhook API, and the content of its outbox.
import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, vi } from 'vitest'
import { type Caller, fetchWorker, newCaller } from './client.ts'
import { fakeReceiver, RECEIVER, type ReceivedRequest } from './receiver.ts'

const managers: Caller[] = []

/** A new account with a key that may manage its webhooks. */
export async function newManager(): Promise<Caller> {
  const caller = await newCaller({ scopes: ['generate', 'read', 'admin'] })
  managers.push(caller)
  return caller
}

// Pending deliveries would be retried during the next test. A log line at the end of a file would block vitest's worker.
afterEach(async () => {
  for (const manager of managers.splice(0))
    await runInDurableObject(outboxOf(manager), (_, { storage }) => {
      storage.sql.exec('DELETE FROM deliveries; DELETE FROM receivers')
    })
})

/** Prepares each test of a file with a new manager and a receiver that accepts every webhook, and removes all mocks afterward. */
export function testWithReceiver(set: (caller: Caller, calls: ReceivedRequest[]) => void): void {
  beforeEach(async () => set(await newManager(), fakeReceiver()))
  afterEach(() => vi.restoreAllMocks())
}

export const outboxOf = ({ account }: Pick<Caller, 'account'>) => env.WEBHOOK.getByName(account)

/** A request to the webhook API. */
export function callWebhookApi(caller: Caller, method: string, path: string, body?: unknown): Promise<Response> {
  return fetchWorker(`/v1/webhooks${path}`, {
    method,
    headers: { ...caller.headers, ...(body !== undefined && { 'content-type': 'application/json' }) },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  })
}

export type CreatedEndpoint = { id: string; secret: string; public_key: string; keys: { expires: number | null }[] }

export async function addEndpoint(caller: Caller, fields: Record<string, unknown> = {}): Promise<CreatedEndpoint> {
  return (await callWebhookApi(caller, 'POST', '', { url: `${RECEIVER}/in`, ...fields })).json()
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
  const reply = await callWebhookApi(caller, 'GET', `/${endpoint}/deliveries${query}`)
  return ((await reply.json()) as { data: ListedDelivery[] }).data
}

/** Waits until nothing is pending in the caller's outbox. */
export const waitForDeliveries = (caller: Pick<Caller, 'account'>) =>
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

/** The receivers in a caller's outbox. */
export const receiversOf = (caller: Pick<Caller, 'account'>) =>
  runInDurableObject(outboxOf(caller), (_, { storage }) =>
    storage.sql
      .exec<{ id: string; host: string; failures: number; openings: number; open_until: number; paused_until: number }>(
        'SELECT * FROM receivers ORDER BY id',
      )
      .toArray(),
  )

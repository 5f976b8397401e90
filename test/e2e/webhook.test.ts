// Webhooks over real sockets: the worker in workerd, and a local receiver that records every POST.
import { once } from 'node:events'
import fs from 'node:fs/promises'
import { createServer, type IncomingHttpHeaders, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import { Webhook } from 'standardwebhooks'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { startGpuStub } from '../../infra/bench/edge/gpu-stub.ts'
import { startWorker } from '../../infra/local/servers/worker.ts'
import { createKey } from '../../infra/operator/keys.ts'
import { createSecrets } from '../../infra/operator/secrets.ts'

type Delivery = { path: string; headers: IncomingHttpHeaders; body: string }
type Answer = (response: ServerResponse) => unknown

/** The first responses of `/in`. All later requests, and requests to other paths, get a 204. */
const ANSWERS: Answer[] = [
  (response) => response.writeHead(500).end('no'),
  () => 'silence',
  (response) => response.writeHead(302, { location: '/elsewhere' }).end(),
  (response) => response.destroy(),
]
const stops: (() => Promise<unknown>)[] = []
const deliveries: Delivery[] = []
/** WEBHOOK_REPLAYS_PER_MINUTE in wrangler.toml. */
const REPLAYS_PER_MINUTE = 100
let headers: Record<string, string>
let server: Server
let url: string
let send: (path: string, body: unknown) => Promise<Response>

const to = (path: string) => deliveries.filter((delivery) => delivery.path === path)
const call = async <T>(path: string, body: unknown) => (await send(path, body)).json() as Promise<T>
const pendingOf = async (id: string) => {
  const reply = await fetch(new URL(`/v1/webhooks/${id}/deliveries?state=pending`, url), { headers })
  return ((await reply.json()) as { data: unknown[] }).data.length
}
const addressOf = (path: string) => `http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`

beforeAll(async () => {
  const persist = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-webhook-'))
  stops.push(() => fs.rm(persist, { recursive: true }))
  server = createServer(async (request, response) => {
    const delivery = { path: request.url!, headers: request.headers, body: await text(request) }
    deliveries.push(delivery)
    const answer = delivery.path === '/in' ? ANSWERS[to('/in').length - 1] : undefined
    answer ? answer(response) : response.writeHead(204).end()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  stops.push(async () => server.close(() => server.closeAllConnections()))
  const gpu = await startGpuStub()
  stops.push(gpu.stop)
  const { secrets } = await createSecrets()
  const vars = { WEBHOOK_LOCAL: 'true', WEBHOOK_TIMEOUT_SECONDS: '1', WEBHOOK_RETRY_SECONDS: '0,0,0,0,0' }
  const worker = await startWorker({ gpuUrl: gpu.url, persist, secrets, vars })
  stops.push(worker.stop)
  url = worker.url
  const target = { url, token: secrets.OCTET_ADMIN_TOKEN }
  const { key } = await createKey(target, 'hooked', { scopes: ['generate', 'read', 'admin'] })
  headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
  send = (path, body) => fetch(new URL(path, url), { method: 'POST', headers, body: JSON.stringify(body) })
})
afterAll(async () => {
  for (const stop of stops.reverse()) await stop()
})

test('a job’s event is delivered despite an error, silence, a redirect and a broken connection, and its link works', async () => {
  const { id: endpoint, secret } = await call<{ id: string; secret: string }>('/v1/webhooks', { url: addressOf('/in') })
  const { id } = await call<{ id: string }>('/v1/jobs', { prompt: 'a cat', size: '64x64', seed: 3 })
  await vi.waitFor(() => expect(deliveries).toHaveLength(ANSWERS.length + 1), { timeout: 60_000, interval: 100 })
  expect(new Set(deliveries.map(({ path }) => path))).toEqual(new Set(['/in']))
  expect(new Set(deliveries.map(({ headers }) => headers['webhook-id']))).toEqual(new Set([`evt_${id}`]))
  const events = deliveries.map(({ headers, body }) =>
    new Webhook(secret).verify(body, headers as Record<string, string>),
  )
  const { type, data } = events.at(-1) as {
    type: string
    data: { id: string; images: { url: string; bytes: number }[] }
  }
  expect([type, data.id]).toEqual(['job.succeeded', id])
  const image = await fetch(data.images[0]!.url)
  expect([image.status, (await image.arrayBuffer()).byteLength]).toEqual([200, data.images[0]!.bytes])
  await fetch(new URL(`/v1/webhooks/${endpoint}`, url), { method: 'DELETE', headers })
})

test('a URL gets one POST per event, and 60 concurrent replay calls stay within the rate limit for replayed deliveries', async () => {
  const address = addressOf('/victim')
  const { id } = await call<{ id: string }>('/v1/webhooks', { url: address })
  const duplicates = await Promise.all(
    Array.from({ length: 20 }, (_, k) => send('/v1/webhooks', { url: `${address}#${k}` })),
  )
  expect(new Set(duplicates.map(({ status }) => status))).toEqual(new Set([409]))
  const named = { prompt: 'a cat', size: '64x64', webhook: address }
  for (let k = 0; k < 5; k++) await call('/v1/jobs', named)
  await vi.waitFor(() => expect(to('/victim')).toHaveLength(5), { timeout: 60_000, interval: 100 })
  expect(new Set(to('/victim').map(({ headers }) => headers['webhook-id'])).size).toBe(5)
  const since = new Date(0).toISOString()
  const replies = await Promise.all(
    Array.from({ length: 60 }, () => send(`/v1/webhooks/${id}/replay`, { since, only: 'all' })),
  )
  const accepted = replies.filter(({ status }) => status === 202)
  expect(replies.length - accepted.length).toBe(replies.filter(({ status }) => status === 429).length)
  const counts = await Promise.all(accepted.map(async (reply) => ((await reply.json()) as { count: number }).count))
  const metered = counts.reduce((sum, count) => sum + count, 0)
  // The replay of an event with a pending delivery adds no POST.
  expect(metered).toBeLessThan(REPLAYS_PER_MINUTE + 60)
  await vi.waitFor(async () => expect(await pendingOf(id)).toBe(0), { timeout: 60_000, interval: 100 })
  expect(to('/victim').length).toBeLessThanOrEqual(5 + metered)
})

// Webhooks over real sockets: the worker in workerd, its queue, and a receiver on this machine that fails before it takes anything.
import { once } from 'node:events'
import fs from 'node:fs/promises'
import { createServer, type IncomingHttpHeaders, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import { Webhook } from 'standardwebhooks'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { startGpuStub } from '../../infra/bench/gpu-stub.ts'
import { createKey } from '../../infra/keys.ts'
import { startWorker } from '../../infra/local-worker.ts'
import { createSecrets } from '../../infra/secrets.ts'

type Delivery = { path: string; headers: IncomingHttpHeaders; body: string }
type Answer = (response: ServerResponse) => unknown

const ANSWERS: Answer[] = [
  (response) => response.writeHead(500).end('no'),
  () => 'silence',
  (response) => response.writeHead(302, { location: '/elsewhere' }).end(),
  (response) => response.destroy(),
]
const stops: (() => Promise<unknown>)[] = []
const deliveries: Delivery[] = []
let server: Server
let url: string
let call: <T>(path: string, body: unknown) => Promise<T>

beforeAll(async () => {
  const persist = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-webhook-'))
  stops.push(() => fs.rm(persist, { recursive: true }))
  server = createServer(async (request, response) => {
    deliveries.push({ path: request.url!, headers: request.headers, body: await text(request) })
    const answer = ANSWERS[deliveries.length - 1]
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
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
  call = async <T>(path: string, body: unknown) =>
    (await fetch(new URL(path, url), { method: 'POST', headers, body: JSON.stringify(body) })).json() as Promise<T>
})
afterAll(async () => {
  for (const stop of stops.reverse()) await stop()
})

test('a job’s event comes through an error, silence, a redirect and a cut connection, and its link opens', async () => {
  const receiver = `http://127.0.0.1:${(server.address() as AddressInfo).port}/in`
  const { secret } = await call<{ secret: string }>('/v1/webhooks', { url: receiver })
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
})

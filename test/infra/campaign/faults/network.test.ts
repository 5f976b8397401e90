// The network of the crash campaign: the proxy in front of two GPU functions, and the one-shot and persistent clients.
import type { RequestListener } from 'node:http'
import { expect, onTestFinished, test } from 'vitest'
import { startChaosProxy } from '../../../../infra/campaign/faults/chaos-proxy.ts'
import { serveLocally } from '../../../../infra/command/local-server.ts'
import { randomOf } from '../../../../infra/command/random.ts'
import { Fault, oneShot, persistent } from '../../../../infra/system/client.ts'

async function serve(listener: RequestListener): Promise<number> {
  const { port, stop } = await serveLocally(listener)
  onTestFinished(stop)
  return port
}
const formatUrl = (port: number, path = '/v1/jobs') => `http://127.0.0.1:${port}${path}`

test('requests alternate between the GPU functions, so a DELETE reaches a different one than its PUT', async () => {
  const seen: string[] = []
  const startGpu = (name: string) =>
    serve((request, response) => {
      seen.push(`${request.method} ${name}`)
      response.end()
    })
  const proxy = await startChaosProxy([await startGpu('a'), await startGpu('b')], randomOf(1, 'network'))
  proxy.calm()
  for (const method of ['PUT', 'DELETE', 'PUT']) await (await fetch(proxy.url, { method })).text()
  expect(seen).toEqual(['PUT a', 'DELETE b', 'PUT a'])
  await proxy.stop()
})

test('a one-shot client does not retry, and its error describes the failure', async () => {
  let requests = 0
  const replies: RequestListener[] = [
    (_, response) => response.writeHead(500).end('{"code":"internal"}'),
    (_, response) => response.writeHead(409).end('{"error":{"code":"idempotency_in_flight"}}'),
    (_, response) => response.destroy(),
    (_, response) => response.writeHead(422).end('{}'),
  ]
  const port = await serve((request, response) => replies[requests++]!(request, response))
  await expect(oneShot.sendReliably(formatUrl(port), 'key')).rejects.toThrow('GET /v1/jobs returned 500')
  await expect(oneShot.sendReliably(formatUrl(port), 'key')).rejects.toThrow(Fault)
  await expect(oneShot.sendReliably(formatUrl(port), 'key')).rejects.toThrow('GET /v1/jobs failed')
  expect(await oneShot.sendReliably(formatUrl(port), 'key')).toEqual({ status: 422, text: '{}' })
  expect(requests).toBe(4)
})

const formatEvent = (id: number, type: string) => `id: ${id}\nevent: ${type}\ndata: {}\n\n`

test('a stream that ends before its job is a fault for a one-shot client and is resumed by a persistent one', async () => {
  const after: (string | undefined)[] = []
  const port = await serve((request, response) => {
    const last = Number(request.headers['last-event-id'])
    after.push(request.headers['last-event-id'] as string)
    if (last > 0) return response.end(formatEvent(2, 'succeeded'))
    response.write(formatEvent(1, 'queued'), () => response.destroy())
  })
  await expect(oneShot.follow(formatUrl(port), 'key')).rejects.toThrow('/v1/jobs ended before the job, after 1 events')
  expect(await persistent.follow(formatUrl(port), 'key')).toEqual([1, 2])
  expect(after).toEqual(['0', '0', '1'])
})

test('a disconnect by the caller is not a fault', async () => {
  const port = await serve(() => {})
  const left = oneShot.send(formatUrl(port), 'key', { signal: AbortSignal.timeout(50) })
  await expect(left).rejects.not.toThrow(Fault)
})

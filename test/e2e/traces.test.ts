// Spans of a job from the worker and the GPU function, at one OTLP endpoint.
import { once } from 'node:events'
import { cp } from 'node:fs/promises'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { json } from 'node:stream/consumers'
import { expect, onTestFinished, test } from 'vitest'
import { startGpu } from '../../infra/local/servers/gpu.ts'
import { startWorker } from '../../infra/local/servers/worker.ts'
import { createKey } from '../../infra/operator/keys.ts'
import { createSecrets } from '../../infra/operator/secrets.ts'
import { compileTiny } from '../support/checkpoints/compile.ts'
import { useScratch } from '../support/scratch.ts'

const scratch = useScratch()

type Attribute = { key: string; value: { stringValue?: string; intValue?: string | number } }
type Span = { name: string; traceId: string; spanId: string; parentSpanId: string; attributes: Attribute[] } & {
  startTimeUnixNano: string
  endTimeUnixNano: string
}
type ExportedSpan = {
  resourceSpans: { resource: { attributes: Attribute[] }; scopeSpans: { spans: Span[] }[] }[]
}

/** Starts an OTLP endpoint; `spans` collects the spans of all services. */
async function startReceiver() {
  const spans: (Span & { service: string; headers: IncomingHttpHeaders })[] = []
  const server = createServer(async (request, response) => {
    const { resourceSpans } = (await json(request)) as ExportedSpan
    for (const { resource, scopeSpans } of resourceSpans) {
      const service = resource.attributes.find(({ key }) => key === 'service.name')!.value.stringValue!
      for (const span of scopeSpans.flatMap((scope) => scope.spans))
        spans.push({ ...span, service, headers: request.headers })
    }
    response.setHeader('content-type', 'application/json').end('{}')
  }).listen(0, '127.0.0.1')
  onTestFinished(() => void server.close(() => server.closeAllConnections()))
  await once(server, 'listening')
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, spans }
}

test('one trace contains the spans of encoding, steps, decoding and storage of an image', async () => {
  const receiver = await startReceiver()
  const { secrets, gpuPublicKey } = await createSecrets()
  const packages = path.join(scratch.directory, 'packages')
  await cp(await compileTiny({ tier: 'fp32' }), path.join(packages, 'custom'), { recursive: true })
  const gpu = await startGpu({
    ...{ packages, edgePublicKey: gpuPublicKey, preload: 'custom:fp32' },
    settings: { OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url },
  })
  const size = { width: 64, height: 64, max_pixels: 64 * 64 }
  const worker = await startWorker({
    ...{ gpuUrl: gpu.url, persist: path.join(scratch.directory, 'state') },
    secrets: { ...secrets, OTEL_EXPORTER_OTLP_HEADERS: 'x-key=secret, x-team=images' },
    vars: { OTEL_EXPORTER_OTLP_ENDPOINT: `${receiver.url}/` },
    catalog: { offers: [{ route: 'turbo', model: 'custom', tier: 'fp32', steps: 2, guidance_scale: 1, ...size }] },
  })
  onTestFinished(worker.stop)
  const { key } = await createKey({ url: worker.url, token: secrets.OCTET_ADMIN_TOKEN }, 'traced')
  const response = await fetch(`${worker.url}/v1/images/generations`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: 'a red heart' }),
  })
  expect(response.status).toBe(200)
  const { octet } = (await response.json()) as { octet: { job: string } }
  const findStored = () => receiver.spans.find(({ name }) => name === 'store')
  await expect.poll(findStored, { timeout: 30_000 }).toBeDefined()
  // Flushes its remaining spans.
  await gpu.stop()
  const named = (name: string) => receiver.spans.filter((span) => span.name === name)
  const [job, store] = [named('job')[0]!, findStored()!]
  expect([job.service, store.service]).toEqual(['octet-gpu', 'octet-worker'])
  expect(receiver.spans.every(({ traceId }) => traceId === job.traceId)).toBe(true)
  // Spans of both services have the parent from the worker's `traceparent`.
  expect(store.parentSpanId).toBe(job.parentSpanId)
  expect(['encode', 'step', 'decode'].map((name) => named(name).length)).toEqual([1, 2, 1])
  expect(store.attributes).toContainEqual({ key: 'octet.job', value: { stringValue: octet.job } })
  expect(BigInt(store.endTimeUnixNano)).toBeGreaterThanOrEqual(BigInt(store.startTimeUnixNano))
  expect(store.headers).toMatchObject({ 'x-key': 'secret', 'x-team': 'images' })
})

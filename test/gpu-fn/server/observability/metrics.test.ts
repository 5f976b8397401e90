import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import sharp from 'sharp'
import { expect, onTestFinished, test } from 'vitest'
import { createMetrics } from '../../../../gpu-fn/server/observability/metrics.ts'
import { createTracing } from '../../../../gpu-fn/server/observability/tracing.ts'
import { observeWith } from '../../../../gpu-fn/server/observer.ts'
import { parseTraceparent } from '../../../../gpu-fn/server/requests/traceparent.ts'
import { createPacedEngine, pacedModel } from '../../../support/engine/paced-engine.ts'
import { createJobBody, inputOf, putFiles, putJob, putRaw } from '../../../support/gpu/client.ts'
import { readWholeStream } from '../../../support/gpu/job-stream.ts'
import { startServer } from '../../../support/gpu/server.ts'

const TRACE = '0af7651916cd43dd8448eb211c80319c'
const SPAN = 'b7ad6b7169203331'

test('counts jobs, waits, phases, loads and refusals, without tenant names', async () => {
  const metrics = createMetrics()
  await using server = await startServer(createPacedEngine(), { metrics })
  const schedule = { tenant: 'secret-tenant', weight: 1, interactive: true }
  await readWholeStream(await putJob(server.url, 'a', { schedule, guidance_scale: 4 }))
  await readWholeStream(await putJob(server.url, 'b', { prompt: 'throw up' }))
  await readWholeStream(await putJob(server.url, 'c', { model: 'invented-by-a-caller' }))
  expect((await putRaw(server.url, 'd', '{}')).status).toBe(400)
  const response = await fetch(`${server.url}/metrics`)
  expect(response.headers.get('content-type')).toContain('text/plain')
  const text = await response.text()
  expect(text).toContain('octet_jobs_total{model="tiny",tier="fp8",class="interactive",outcome="succeeded"} 1')
  expect(text).toContain('octet_jobs_total{model="tiny",tier="fp8",class="interactive",outcome="internal"} 1')
  expect(text).toContain(
    'octet_jobs_total{model="unknown",tier="fp8",class="interactive",outcome="model_not_available"} 1',
  )
  expect(text).toContain(
    'octet_phase_seconds_count{model="tiny",tier="fp8",phase="step",size="0.3 MP",samples="2",controls="0"} 4',
  )
  expect(text).toContain('octet_model_loads_total{model="tiny",tier="fp8"} 1')
  expect(text).toContain('octet_refusals_total{code="invalid_request"} 1')
  expect(text).toContain('octet_queue_jobs{class="interactive",state="waiting"} 0')
  expect(text).toContain('octet_ready 1')
  expect(text).toMatch(/octet_wait_seconds_count\{class="interactive"\} 3/)
  expect(text).toMatch(/^process_resident_memory_bytes \d+$/m)
  expect(text).not.toMatch(/secret-tenant|invented/)
})

test('counts the samples of a step with skip-layer guidance', async () => {
  const metrics = createMetrics()
  const engine = createPacedEngine()
  const models = [{ ...pacedModel, blocks: { count: 4, skipped: [1] } }]
  await using server = await startServer({ ...engine, models }, { metrics })
  const skip_layer_guidance = { scale: 2.5, start: 0, stop: 1 }
  await readWholeStream(await putJob(server.url, 'a', { guidance_scale: 4, skip_layer_guidance }))
  const { body } = await metrics.text()
  const countSteps = (samples: number) =>
    `octet_phase_seconds_count{model="tiny",tier="fp8",phase="step",size="0.3 MP",samples="${samples}",controls="0"}`
  expect(body).toContain(`${countSteps(2)} 1`)
  expect(body).toContain(`${countSteps(3)} 3`)
  expect(body).toContain('octet_step_jobs_count{model="tiny",tier="fp8"} 4')
})

test('counts the steps of a ControlNet separately', async () => {
  const metrics = createMetrics()
  await using server = await startServer(createPacedEngine(), { metrics })
  const image = await sharp({ create: { width: 64, height: 64, channels: 3, background: '#888' } })
    .png()
    .toBuffer()
  const controls = [{ id: 'canny', scale: 1, stop: 0.5 }]
  const request = createJobBody({ guidance_scale: 4, controls, inputs: [inputOf('control', image)] })
  await readWholeStream(await putFiles(server.url, 'a', request, image))
  await readWholeStream(await putJob(server.url, 'b', { guidance_scale: 4 }))
  const text = await (await fetch(`${server.url}/metrics`)).text()
  const countSteps = (controls: number) =>
    `octet_phase_seconds_count{model="tiny",tier="fp8",phase="step",size="0.3 MP",samples="2",controls="${controls}"}`
  expect(text).toContain(`${countSteps(0)} 6`)
  expect(text).toContain(`${countSteps(1)} 2`)
})

test('requires its token, if one is set', async () => {
  const metrics = createMetrics()
  await using server = await startServer(createPacedEngine(), { metrics, metricsToken: 'hush' })
  const read = async (authorization?: string) =>
    (await fetch(`${server.url}/metrics`, { headers: authorization ? { authorization } : {} })).status
  expect([await read(), await read('Bearer wrong'), await read('Bearer hush')]).toEqual([401, 401, 200])
})

test('reports readiness while its queue has room', async () => {
  await using server = await startServer(createPacedEngine(0), { queue: 1 })
  const fetchReadiness = async () => (await fetch(`${server.url}/readyz`)).status
  expect(await fetchReadiness()).toBe(200)
  for (const id of ['a', 'b']) void putJob(server.url, id, { steps: 100 })
  await expect.poll(fetchReadiness, { timeout: 30_000 }).toBe(503)
  server.lifecycle.status = 'draining'
  expect(await fetchReadiness()).toBe(503)
})

test('sends the spans of a job to the collector, in the trace of its caller', async () => {
  const received: { resourceSpans: { scopeSpans: { spans: Span[] }[] }[] }[] = []
  const receiver = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk)
    received.push(JSON.parse(Buffer.concat(chunks).toString()))
    response.setHeader('content-type', 'application/json').end('{}')
  }).listen(0, '127.0.0.1')
  onTestFinished(() => void receiver.close())
  await once(receiver, 'listening')
  const tracing = createTracing(`http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`)
  await using server = await startServer(createPacedEngine(), { observers: [tracing] })
  await readWholeStream(await putJob(server.url, 'traced', {}, { traceparent: `00-${TRACE}-${SPAN}-01` }))
  await tracing.stop()
  const spans = received.flatMap(({ resourceSpans }) => resourceSpans[0]!.scopeSpans[0]!.spans)
  const job = spans.find(({ name }) => name === 'job')!
  expect(job).toMatchObject({ traceId: TRACE, parentSpanId: SPAN })
  expect(spans.every(({ traceId }) => traceId === TRACE)).toBe(true)
  const phases = spans.filter(({ parentSpanId }) => parentSpanId === job.spanId).map(({ name }) => name)
  expect(phases).toEqual(['load', 'encode', 'step', 'step', 'step', 'step', 'file'])
})
type Span = { name: string; traceId: string; spanId: string; parentSpanId: string }

test.each([
  ['', null],
  [`00-${TRACE}-${SPAN}-01`, { traceId: TRACE, spanId: SPAN, traceFlags: 1 }],
  [`cc-${TRACE}-${SPAN}-00`, { traceId: TRACE, spanId: SPAN, traceFlags: 0 }],
  [`ff-${TRACE}-${SPAN}-01`, null],
  [`00-${'0'.repeat(32)}-${SPAN}-01`, null],
  [`00-${TRACE}-${'0'.repeat(16)}-01`, null],
  [`00-${TRACE.toUpperCase()}-${SPAN}-01`, null],
  [`00-${TRACE}-${SPAN}-01\n`, null],
  ['x'.repeat(100_000), null],
])('traceparent %j', (header, expected) => {
  expect(parseTraceparent(header)).toEqual(expected)
})

test('an observer may omit methods', () => {
  const seen: string[] = []
  const observer = observeWith([{}, { refused: (code) => void seen.push(code) }])
  observer.refused('queue_full')
  expect(seen).toEqual(['queue_full'])
})

import { createHash } from 'node:crypto'
import { connect, type Socket } from 'node:net'
import { expect, test } from 'vitest'
import type { Model } from '../../../gpu-fn/engine/engine.ts'
import { createPacedEngine } from '../../support/engine/paced-engine.ts'
import { createJobBody, deleteJob, putJob, refusalOf, signToken } from '../../support/gpu/client.ts'
import { readUntil, readWholeStream, typesOf } from '../../support/gpu/job-stream.ts'
import { startServer } from '../../support/gpu/server.ts'

/** Polls with a long timeout, for events that are immediate on an idle machine. */
const pollEventually = <T>(read: () => T) => expect.poll(read, { timeout: 30_000 })

/** A connection that submits a job and does not read the reply. */
async function openStalledReader(port: number, job: string, prompt: string): Promise<Socket> {
  const text = JSON.stringify(createJobBody({ prompt }))
  const socket = connect(port, '127.0.0.1').pause()
  socket.write(
    `PUT /jobs/${job} HTTP/1.1\r\nhost: gpu\r\ncontent-type: application/json\r\ncontent-length: ${text.length}\r\n` +
      `authorization: Bearer ${await signToken(job, text)}\r\n\r\n${text}`,
  )
  return socket
}

test('a job is a stream of its events and its images', async () => {
  await using server = await startServer(createPacedEngine())
  const response = await putJob(server.url, 'job-1', { steps: 2, count: 2 })
  expect(response.status).toBe(200)
  expect(response.headers.get('content-type')).toBe('application/x-ndjson')
  const entries = await readWholeStream(response)
  const steps = ['step', 'step', 'image']
  expect(typesOf(entries)).toEqual(['accepted', 'started', ...steps, ...steps, 'succeeded'])
  expect(entries[0]?.event).toEqual({ type: 'accepted', job: 'job-1', attempt: 1, position: 0 })
  expect(entries[1]?.event).toMatchObject({ model: 'tiny', tier: 'fp8', package: 'f'.repeat(64), device: 'paced' })
  for (const { event, data } of entries.filter(({ data }) => data)) {
    const sha256 = createHash('sha256').update(data!).digest('hex')
    expect(event).toMatchObject({ type: 'image', bytes: 100, sha256, content_type: 'image/png' })
  }
  const timings = { load: 1.5, encode: 0.25, denoise: 2, decode: 0.5 }
  expect(entries.at(-1)?.event).toMatchObject({ type: 'succeeded', images: 2, timings })
})

test('health has the state of the process, and only a ready one accepts jobs', async () => {
  await using server = await startServer(createPacedEngine())
  const models = [{ model: 'tiny', tier: 'fp8', package: 'f'.repeat(64) }]
  for (const [status, healthz, ping] of [
    ['loading', 503, 204],
    ['draining', 503, 503],
    ['failed', 503, 503],
  ] as const) {
    server.lifecycle.status = status
    const health = await fetch(`${server.url}/healthz`)
    expect(health.status).toBe(healthz)
    expect(await health.json()).toEqual({ status, protocol: 1, running: 0, queued: 0, models })
    expect((await fetch(`${server.url}/ping`)).status).toBe(ping)
    const response = await putJob(server.url, 'job-1')
    expect(response.headers.get('retry-after')).toMatch(/^\d+$/)
    expect(await refusalOf(response)).toBe(`503 ${status}`)
  }
  server.lifecycle.status = 'ready'
  expect((await fetch(`${server.url}/healthz`)).status).toBe(200)
  expect((await fetch(`${server.url}/ping`)).status).toBe(200)
})

test('waiting jobs receive queue positions and heartbeats, and jobs beyond the queue limit are refused', async () => {
  const engine = createPacedEngine(0)
  await using server = await startServer(engine, { queue: 1, heartbeatMs: 10 })
  const first = await putJob(server.url, 'first')
  const second = await putJob(server.url, 'second', { seed: 8 })
  const full = await putJob(server.url, 'third', { seed: 9 })
  expect(full.headers.get('retry-after')).toMatch(/^[1-9]\d*$/)
  expect(await refusalOf(full)).toBe('429 queue_full')
  expect(await (await fetch(`${server.url}/healthz`)).json()).toMatchObject({ running: 1, queued: 1 })

  const waiting = await readUntil(await putJob(server.url, 'second', { seed: 8 }), 'heartbeat')
  expect(waiting.map(({ event }) => event)).toMatchObject([{ type: 'accepted', position: 1 }, { type: 'heartbeat' }])
  const running = await readUntil(await putJob(server.url, 'first'), 'heartbeat')
  expect(running.map(({ event }) => event.type)).toEqual(['accepted', 'started', 'heartbeat'])

  engine.allow(8)
  for (const response of [first, second]) expect(typesOf(await readWholeStream(response)).at(-1)).toBe('succeeded')
  expect(engine.runs.map(({ seed }) => seed)).toEqual([7, 8])
})

test('a job survives a disconnect: a repeated request replays its events and follows it', async () => {
  const engine = createPacedEngine(2)
  await using server = await startServer(engine)
  const cut = await readUntil(await putJob(server.url, 'job-1'), 'step')
  const again = await putJob(server.url, 'job-1')
  engine.allow(2)
  const replayed = await readWholeStream(again)
  expect(replayed.slice(0, cut.length)).toEqual(cut)
  expect(typesOf(replayed).at(-1)).toBe('succeeded')
  const replay = await readWholeStream(await putJob(server.url, 'job-1'))
  expect(replay).toEqual(replayed)
  expect(engine.runs).toHaveLength(1)
})

test('a later attempt attaches to the run and gets its own number; another body is a conflict', async () => {
  const engine = createPacedEngine(0)
  await using server = await startServer(engine)
  const first = await putJob(server.url, 'job-1')
  const second = await putJob(server.url, 'job-1', { attempt: 2 })
  expect(await refusalOf(await putJob(server.url, 'job-1', { prompt: 'a blue heart' }))).toBe('409 job_conflict')
  engine.allow(4)
  const [one, two] = [await readWholeStream(first), await readWholeStream(second)]
  expect(two[0]?.event).toMatchObject({ type: 'accepted', attempt: 2 })
  expect(two.slice(1)).toEqual(one.slice(1))
  expect(engine.runs).toHaveLength(1)
})

test('the caller gets a fixed message for a fault, and the log all details; a later attempt runs again', async () => {
  const engine = createPacedEngine()
  await using server = await startServer(engine)
  const prompt = 'throw secret detail'
  const first = await readWholeStream(await putJob(server.url, 'job-1', { prompt }))
  expect(first.at(-1)?.event).toMatchObject({ type: 'failed', code: 'internal' })
  expect(JSON.stringify(first)).not.toContain('secret')
  const logged = server.logs.find(({ msg }) => msg === 'job failed')
  expect(logged).toMatchObject({ job: 'job-1', attempt: 1, code: 'internal', err: { message: 'secret detail' } })

  expect(await readWholeStream(await putJob(server.url, 'job-1', { prompt }))).toEqual(first)
  expect(engine.runs).toHaveLength(1)
  await readWholeStream(await putJob(server.url, 'job-1', { prompt, attempt: 2 }))
  expect(engine.runs).toHaveLength(2)
  expect(server.broken).toHaveLength(0)
})

test('a running job is canceled between two steps', async () => {
  const engine = createPacedEngine(2)
  await using server = await startServer(engine)
  const response = await putJob(server.url, 'job-1', { steps: 50 })
  await readUntil(await putJob(server.url, 'job-1', { steps: 50 }), 'step')
  expect((await deleteJob(server.url, 'job-1')).status).toBe(204)
  const entries = await readWholeStream(response)
  const steps = entries.filter(({ event }) => event.type === 'step').length
  expect(entries.at(-1)?.event).toMatchObject({ type: 'canceled', steps_done: steps })
  expect(steps).toBeGreaterThan(0)
  expect((await deleteJob(server.url, 'job-1')).status).toBe(204)
  const replay = await readWholeStream(await putJob(server.url, 'job-1', { steps: 50 }))
  expect(replay).toEqual(entries)
  expect(engine.runs).toHaveLength(1)
  const again = await putJob(server.url, 'job-1', { steps: 50, attempt: 2 })
  engine.allow(50)
  expect(typesOf(await readWholeStream(again)).at(-1)).toBe('succeeded')
  expect(engine.runs).toHaveLength(2)
})

test('a waiting job is canceled at once and never runs', async () => {
  const engine = createPacedEngine(0)
  await using server = await startServer(engine)
  const running = await putJob(server.url, 'running')
  const waiting = await putJob(server.url, 'waiting', { seed: 8 })
  expect((await deleteJob(server.url, 'waiting')).status).toBe(204)
  const entries = await readWholeStream(waiting)
  expect(typesOf(entries)).toEqual(['accepted', 'canceled'])
  expect(entries[1]?.event).toMatchObject({ steps_done: 0, timings: { denoise: 0 } })
  engine.allow(4)
  await readWholeStream(running)
  expect(engine.runs.map(({ seed }) => seed)).toEqual([7])
})

test('a cancellation of an unknown job or a superseded attempt is refused', async () => {
  const engine = createPacedEngine(0)
  await using server = await startServer(engine)
  expect(await refusalOf(await deleteJob(server.url, 'nobody'))).toBe('404 job_not_found')
  const response = await putJob(server.url, 'job-1')
  await (await putJob(server.url, 'job-1', { attempt: 2 })).body?.cancel()
  expect(await refusalOf(await deleteJob(server.url, 'job-1', { attempt: 1 }))).toBe('409 stale_attempt')
  engine.allow(4)
  expect(typesOf(await readWholeStream(response)).at(-1)).toBe('succeeded')
})

test('ended jobs are evicted when newer ones need their memory', async () => {
  const engine = createPacedEngine()
  await using server = await startServer(engine, { retainBytes: 300_000 })
  const put = async (job: string) =>
    readWholeStream(await putJob(server.url, job, { prompt: 'bytes 100000', steps: 1 }))
  for (const job of ['a', 'b', 'c', 'c', 'b', 'a']) await put(job)
  // Two jobs fit, so c and b were replayed and a ran twice.
  expect(engine.runs).toHaveLength(4)
})

test('ended jobs are evicted at the end of their retention', async () => {
  const engine = createPacedEngine()
  await using server = await startServer(engine, { retainSeconds: 0 })
  await readWholeStream(await putJob(server.url, 'job-1'))
  await expect.poll(async () => (await deleteJob(server.url, 'job-1')).status).toBe(404)
  await readWholeStream(await putJob(server.url, 'job-1', { attempt: 2 }))
  expect(engine.runs).toHaveLength(2)
})

test('stalled readers delay neither the job nor other readers, and require no copy of the image', async () => {
  await using server = await startServer(createPacedEngine())
  const bytes = 16 * 1024 * 1024
  const prompt = `bytes ${bytes}`
  const before = process.memoryUsage().arrayBuffers
  const stalled = await Promise.all(Array.from({ length: 8 }, () => openStalledReader(server.port, 'big', prompt)))
  await expect.poll(() => server.logs.some(({ msg }) => msg === 'job ended')).toBe(true)
  const image = (await readUntil(await putJob(server.url, 'big', { prompt }), 'image')).at(-1)
  expect(image?.data?.byteLength).toBe(bytes)
  // The image, and the copies of the one reader above; eight readers with one each would be 128 MiB more.
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(6 * bytes)
  for (const socket of stalled) socket.destroy()
})

test('an error that depends on the model is a failed event that names the field', async () => {
  await using server = await startServer(createPacedEngine())
  const end = async (job: string, overrides: Parameters<typeof createJobBody>[0]) =>
    (await readWholeStream(await putJob(server.url, job, overrides))).at(-1)?.event
  expect(await end('a', { model: 'large' })).toEqual({
    type: 'failed',
    code: 'model_not_available',
    message: 'model "large" in tier "fp8" is not on this server; it has tiny:fp8',
  })
  expect(await end('b', { tier: 'fp16' })).toMatchObject({ type: 'failed', code: 'model_not_available' })
  expect(await end('c', { height: 160 })).toEqual({
    type: 'failed',
    code: 'invalid_request',
    message: 'height was 160; tiny takes multiples of 32 up to 128',
  })
  expect(await end('d', { width: 80 })).toMatchObject({
    code: 'invalid_request',
    message: expect.stringMatching(/^width was 80; /),
  })
})

test('a model is preloaded with a token for its name', async () => {
  const paced = createPacedEngine()
  const loads: string[] = []
  const engine = {
    ...paced,
    load: (model: Model) => {
      loads.push(model.model)
      return paced.load(model)
    },
  }
  await using server = await startServer(engine)
  const put = async (model: string, signed: string, body: string) =>
    fetch(`${server.url}/models/${model}`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${await signToken(signed, body)}` },
      body,
    })
  const tier = JSON.stringify({ tier: 'fp8' })
  expect((await put('tiny', 'tiny', tier)).status).toBe(202)
  await pollEventually(() => loads).toEqual(['tiny'])
  expect(await refusalOf(await put('other', 'other', tier))).toBe('404 not_found')
  expect(await refusalOf(await put('tiny', 'other', tier))).toBe('403 token_mismatch')
  expect(await refusalOf(await put('tiny', 'tiny', '{"tier":"none"}'))).toBe('400 invalid_request')
  expect(loads).toHaveLength(1)
  for (const status of ['loading', 'draining'] as const) {
    server.lifecycle.status = status
    expect(await refusalOf(await put('tiny', 'tiny', tier))).toBe(`503 ${status}`)
  }
  expect(loads).toHaveLength(1)
})

test('accepted jobs can still be followed and canceled during a drain', async () => {
  const engine = createPacedEngine(0)
  await using server = await startServer(engine)
  const response = await putJob(server.url, 'job-1')
  server.lifecycle.status = 'draining'
  expect(await refusalOf(await putJob(server.url, 'job-2'))).toBe('503 draining')
  const follower = await putJob(server.url, 'job-1')
  const idle = server.jobs.waitUntilIdle()
  expect((await deleteJob(server.url, 'job-1')).status).toBe(204)
  await idle
  for (const reply of [response, follower]) expect(typesOf(await readWholeStream(reply)).at(-1)).toBe('canceled')
})

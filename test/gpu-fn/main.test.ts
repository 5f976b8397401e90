import { createHash } from 'node:crypto'
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { health } from '../../gpu-fn/contract.ts'
import { readJobStream } from '../../infra/system/job-stream.ts'
import { compileTiny } from '../support/checkpoints/compile.ts'
import { deleteJob, edgeKeys, putJob as put, putRaw, refusalOf } from '../support/gpu/client.ts'
import { readUntil, readWholeStream, typesOf } from '../support/gpu/job-stream.ts'
import { type GpuProcess, runGpuProcess, startGpuProcess } from '../support/gpu/process.ts'

let packages: string
beforeAll(async () => {
  packages = await mkdtemp(path.join(tmpdir(), 'octet-packages-'))
  await cp(await compileTiny({ tier: 'fp8' }), path.join(packages, 'custom'), { recursive: true })
})
afterAll(() => rm(packages, { recursive: true }))

const putJob: typeof put = (url, job, overrides) => put(url, job, { model: 'custom', ...overrides })
/** Long enough that it still runs when the next request arrives, on any machine. */
const long = { steps: 100, count: 8 }

describe('a running process', () => {
  let gpu: GpuProcess
  beforeAll(async () => {
    gpu = await startGpuProcess(packages, {
      ...{ OCTET_PRELOAD: 'custom:fp8', OCTET_QUEUE: '1', OCTET_WARM: '64x96,64x64', OCTET_AGING_SECONDS: '3600' },
    })
    expect(await gpu.ready()).toEqual([503, 200])
  })
  afterAll(() => gpu[Symbol.asyncDispose]())

  test('is loaded and warm in one size before it is ready, and in every configured size soon after', async () => {
    const { sizes } = await gpu.logged('model warm')
    const order = gpu.logs.map(({ msg }) => msg).filter((msg) => /^(model|ready)/.test(msg))
    expect(order).toEqual(['model loaded', 'ready', 'model warm'])
    expect(sizes).toEqual([
      { width: 64, height: 96 },
      { width: 64, height: 64 },
    ])
  })

  test('logs the parts of its start, in seconds', async () => {
    const parts = (await gpu.logged('model loaded')).parts as { part: string; from: number; to: number }[]
    const names = parts.map(({ part }) => part)
    for (const name of [
      'packages',
      'engine thread',
      'verification',
      'tokenizers',
      'clip_l',
      'transformer',
      'first image',
    ])
      expect(names).toContain(name)
    for (const { from, to } of parts) expect(0 < from && from <= to).toBe(true)
    // The prompts do not wait for the denoiser, which loads last.
    expect(names.indexOf('clip_l')).toBeLessThan(names.indexOf('first image'))
  })

  test('lists its models', async () => {
    const body = health.parse(await (await fetch(`${gpu.url}/healthz`)).json())
    expect(body).toMatchObject({ status: 'ready', running: 0, queued: 0, models: [{ model: 'custom', tier: 'fp8' }] })
  })

  test('generates an image of the requested size, warm, with its digest', async () => {
    const entries = await readWholeStream(await putJob(gpu.url, 'picture', { width: 64, height: 96 }))
    expect(typesOf(entries)).toEqual(['accepted', 'started', 'step', 'step', 'step', 'step', 'image', 'succeeded'])
    const { event, data } = entries.find((entry) => entry.data)!
    expect(event).toMatchObject({ sha256: createHash('sha256').update(data!).digest('hex'), content_type: 'image/png' })
    expect(await sharp(data).metadata()).toMatchObject({ format: 'png', width: 64, height: 96, channels: 3 })
    expect(entries.at(-1)?.event).toMatchObject({ images: 1, timings: { load: 0 } })
  })

  test('returns the same bytes for a repeated request, even as another job', async () => {
    const [first, again, other] = await Promise.all(
      [
        ['same', 1],
        ['same', 2],
        ['other', 1],
      ].map(async ([job, attempt]) => readWholeStream(await putJob(gpu.url, `${job}`, { attempt: Number(attempt) }))),
    )
    expect(again!.slice(1)).toEqual(first!.slice(1))
    expect(other!.find(({ data }) => data)).toEqual(first!.find(({ data }) => data))
  })

  test('keeps a job running after a disconnect, refuses jobs beyond its queue limit, and cancels between steps', async () => {
    await readUntil(await putJob(gpu.url, 'long', long), 'step')
    const waiting = await putJob(gpu.url, 'waiting', { seed: 1, steps: 9 })
    const full = await putJob(gpu.url, 'too-many', { seed: 2, steps: 9 })
    expect(Number(full.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(await refusalOf(full)).toBe('429 queue_full')
    const attached = await putJob(gpu.url, 'long', long)
    expect((await deleteJob(gpu.url, 'long')).status).toBe(204)
    const entries = await readWholeStream(attached)
    const steps = entries.filter(({ event }) => event.type === 'step').length
    expect(entries.at(-1)?.event).toMatchObject({ type: 'canceled', steps_done: steps })
    expect(typesOf(await readWholeStream(waiting)).at(-1)).toBe('succeeded')
  })

  test('logs a job under its id', () => {
    const lines = gpu.logs.filter(({ job }) => job === 'picture')
    expect(lines.map(({ msg }) => msg)).toEqual(['job ended'])
    expect(lines.every(({ attempt }) => attempt === 1)).toBe(true)
  })

  test('refuses callers without a token', async () => {
    const unsigned = await fetch(`${gpu.url}/jobs/x`, {
      method: 'PUT',
      body: '{}',
      headers: { 'content-type': 'application/json' },
    })
    expect(await refusalOf(unsigned)).toBe('401 token_missing')
    expect(await refusalOf(await putRaw(gpu.url, 'x', '{}'))).toBe('400 invalid_request')
  })
})

describe('a process exits', () => {
  test('on SIGTERM: refuses new jobs, finishes accepted ones, and exits with 0', async () => {
    await using gpu = await startGpuProcess(packages)
    await gpu.ready()
    const running = await putJob(gpu.url, 'running', { steps: 20 })
    const waiting = await putJob(gpu.url, 'waiting', { seed: 1 })
    gpu.child.kill('SIGTERM')
    await gpu.logged('draining')
    expect(await refusalOf(await putJob(gpu.url, 'late', { seed: 2 }))).toBe('503 draining')
    for (const response of [running, waiting]) expect(typesOf(await readWholeStream(response)).at(-1)).toBe('succeeded')
    expect(await gpu.ended).toBe(0)
  })

  test('on SIGTERM during loading: after it has loaded, with 0', async () => {
    await using gpu = await startGpuProcess(packages, { OCTET_PRELOAD: 'custom:fp8' })
    gpu.child.kill('SIGTERM')
    expect(await gpu.ended).toBe(0)
    expect(gpu.logs.map(({ msg }) => msg)).toEqual(['listening', 'draining', 'stopped'])
  })

  test('on SIGINT repeated by npm: finishes its jobs, and exits with 0', async () => {
    await using gpu = await startGpuProcess(packages)
    await gpu.ready()
    const running = await putJob(gpu.url, 'running', { steps: 20 })
    gpu.child.kill('SIGINT')
    await gpu.logged('draining')
    gpu.child.kill('SIGINT')
    expect(typesOf(await readWholeStream(running)).at(-1)).toBe('succeeded')
    expect(await gpu.ended).toBe(0)
  })

  test('on a second signal, a second later: immediately', async () => {
    await using gpu = await startGpuProcess(packages)
    await gpu.ready()
    await readUntil(await putJob(gpu.url, 'running', long), 'step')
    gpu.child.kill('SIGTERM')
    await gpu.logged('draining')
    await sleep(1_100)
    gpu.child.kill('SIGTERM')
    expect(await gpu.ended).toBe('SIGKILL')
    expect(await gpu.logged('jobs are abandoned')).toMatchObject({ reason: 'a second signal', running: 1 })
  })

  test('at the end of the drain time: after logging the abandoned jobs', async () => {
    await using gpu = await startGpuProcess(packages, { OCTET_DRAIN_SECONDS: '0' })
    await gpu.ready()
    await readUntil(await putJob(gpu.url, 'running', long), 'step')
    gpu.child.kill('SIGTERM')
    expect(await gpu.ended).toBe('SIGKILL')
    const reason = 'the drain timeout has expired'
    expect(await gpu.logged('jobs are abandoned')).toMatchObject({ reason, running: 1, queued: 0 })
  })
})

test('a job is canceled after its only reader disconnects, and the next job runs', async () => {
  await using gpu = await startGpuProcess(packages, { OCTET_UNREAD_SECONDS: '1', OCTET_AGING_SECONDS: '3600' })
  await gpu.ready()
  await readUntil(await putJob(gpu.url, 'left', long), 'step')
  const next = await putJob(gpu.url, 'next', { seed: 1 })
  expect(await gpu.logged('job canceled: it has no reader')).toMatchObject({ job: 'left', seconds: 1 })
  expect(typesOf(await readWholeStream(next)).at(-1)).toBe('succeeded')
})

describe('a process with a hanging engine', () => {
  test('logs the reason, exits with code 1, and breaks the streams of its jobs', async () => {
    const preload = new URL('../support/engine/hanging-engine.ts', import.meta.url)
    await using gpu = await startGpuProcess(packages, {
      ...{ NODE_OPTIONS: `--import=${preload}`, OCTET_PRELOAD: 'custom:fp8', OCTET_STALL_SECONDS: '1' },
    })
    await gpu.ready()
    const entries = readJobStream((await putJob(gpu.url, 'hangs', { prompt: 'hang' })).body!)
    const waiting = await putJob(gpu.url, 'waits', { seed: 1 })
    const read = async () => {
      const types: string[] = []
      for await (const { event } of entries) types.push(event.type)
      return types
    }
    const ends = Promise.allSettled([read(), readWholeStream(waiting)])
    const line = await gpu.logged('the engine has hung; the process ends')
    expect(line).toMatchObject({ level: 60, activity: 'run', running: 1, queued: 1 })
    expect(await gpu.ended).toBe(1)
    expect((await ends).map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    await expect(fetch(`${gpu.url}/healthz`)).rejects.toThrow()
  })
})

test('a sequential start is warm in every size before it is ready, and verifies files while they load', async () => {
  const env = { OCTET_PRELOAD: 'custom:fp8', OCTET_WARM: '64x96,64x64', OCTET_SEQUENTIAL_START: '1' }
  await using gpu = await startGpuProcess(packages, env)
  await gpu.ready()
  const order = gpu.logs.map(({ msg }) => msg).filter((msg) => /^(model|ready)/.test(msg))
  expect(order).toEqual(['model loaded', 'model warm', 'ready'])
  const [loaded, warm] = gpu.logs.filter(({ msg }) => msg.startsWith('model'))
  const parts = loaded!.parts as { part: string; from: number }[]
  const startOf = (name: string) => parts.find(({ part }) => part === name)?.from
  expect(startOf('first image')).toBe(undefined)
  expect(startOf('verification')).toBeGreaterThan(startOf('engine thread')!)
  expect(warm!.sizes).toHaveLength(2)
})

test('the directory of a single package is served', async () => {
  await using gpu = await startGpuProcess(path.join(packages, 'custom'))
  await gpu.ready()
  const body = health.parse(await (await fetch(`${gpu.url}/healthz`)).json())
  expect(body.models).toMatchObject([{ model: 'custom', tier: 'fp8' }])
})

test('reports at startup that the preloaded models exceed the memory', async () => {
  const both = await mkdtemp(path.join(tmpdir(), 'octet-both-'))
  try {
    await cp(path.join(packages, 'custom'), path.join(both, 'fp8'), { recursive: true })
    await cp(await compileTiny({ tier: 'fp32' }), path.join(both, 'fp32'), { recursive: true })
    const env = { OCTET_PRELOAD: 'custom:fp8,custom:fp32', OCTET_MEMORY_BYTES: '1' }
    await using gpu = await startGpuProcess(both, env)
    await gpu.ready()
    const line = gpu.logs.find(({ msg }) => msg.startsWith('the models of OCTET_PRELOAD exceed the memory'))
    expect(line).toMatchObject({ model: 'custom:fp32', closed: ['custom:fp8'] })
  } finally {
    await rm(both, { recursive: true })
  }
})

describe('a process with a startup error', () => {
  const key = JSON.stringify(edgeKeys.publicKey.export({ format: 'jwk' }))

  test('names the invalid variable', async () => {
    const { code, output } = await runGpuProcess({ OCTET_PACKAGES: packages, OCTET_EDGE_PUBLIC_KEY: key, PORT: 'http' })
    expect({ code, output }).toEqual({ code: 2, output: 'PORT must be an integer from 0 to 65535; given "http"\n' })
  })

  test('reports a missing package and a missing preloaded model', async () => {
    const empty = await mkdtemp(path.join(tmpdir(), 'octet-none-'))
    const nothing = await runGpuProcess({ OCTET_PACKAGES: empty, OCTET_EDGE_PUBLIC_KEY: key })
    expect(nothing.code).toBe(1)
    expect(nothing.output).toContain(`no package in ${empty}`)
    await rm(empty, { recursive: true })

    const env = { OCTET_PACKAGES: packages, OCTET_EDGE_PUBLIC_KEY: key, OCTET_PRELOAD: 'large:fp8' }
    const missing = await runGpuProcess(env)
    expect(missing.code).toBe(1)
    expect(missing.output).toContain('OCTET_PRELOAD lists large:fp8')
  })
})

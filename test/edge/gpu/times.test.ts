// Time limits of the GPU function: start, silence and run.

import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { configOf } from '../../../edge/config.ts'
import { computePauseAfterLossMs } from '../../../edge/jobs/attempt.ts'
import type { JobRecord } from '../../../edge/jobs/record.ts'
import { generate, ledgerOf, newCaller, problemOf, send } from '../support/client.ts'
import { createConfigWith } from '../support/config.ts'
import {
  cancellations,
  createAccepted,
  createFeed,
  createImage,
  createStarted,
  encodeLine,
  fakeGpu,
  type SeenRequest,
  timings,
  works,
} from '../support/fake-gpu.ts'
import { createRunningJob, waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

const body = { prompt: 'a cat', seed: 1 }
const free = { reserved: 0, captured: 0 }
const neverAnswers = ({ signal }: SeenRequest) =>
  new Promise<never>((_, reject) => signal?.addEventListener('abort', () => reject(new Error('connection closed'))))

test('a GPU function that accepts the connection and never replies is unavailable at the deadline', async ({
  expect,
}) => {
  const caller = await newCaller()
  const calls = fakeGpu(neverAnswers)
  const response = await generate(caller, body)
  expect([response.status, (await problemOf(response)).error.code]).toEqual([503, 'gpu_unavailable'])
  expect(calls).toHaveLength(1)
  expect(await ledgerOf(caller)).toEqual(free)
})

test('a GPU function that never replies also fails a job without a waiting caller', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(neverAnswers)
  const spec = await createRunningJob(caller)
  expect(await waitForEnd(spec)).toMatchObject({ state: 'failed', attempt: 1, error: { code: 'gpu_unavailable' } })
  expect(calls).toHaveLength(1)
  expect(await ledgerOf(caller)).toEqual(free)
})

describe('a refusal', () => {
  type Source = UnderlyingSource<Uint8Array>
  const refusal = (status: number, pull: Source['pull'], cancel?: Source['cancel']) =>
    new Response(new ReadableStream<Uint8Array>({ ...(pull && { pull }), ...(cancel && { cancel }) }), { status })

  test('with an endless body is read up to 64 KiB', async ({ expect }) => {
    let pulled = 0
    fakeGpu(() =>
      refusal(400, (controller) => {
        pulled += 16_384
        controller.enqueue(new Uint8Array(16_384).fill(97))
      }),
    )
    expect((await generate(await newCaller(), body)).status).toBe(500)
    expect(pulled).toBeGreaterThanOrEqual(65_536)
    expect(pulled).toBeLessThanOrEqual(131_072)
  })

  test('with an incomplete body is reported with the received part', async ({ expect }) => {
    const warn = vi.spyOn(console, 'warn')
    let begun = false
    fakeGpu(() =>
      refusal(400, (controller) => {
        if (begun) return new Promise(() => {})
        begun = true
        controller.enqueue(new TextEncoder().encode('half a refu'))
      }),
    )
    expect((await generate(await newCaller(), body)).status).toBe(500)
    expect(warn.mock.calls.flat().join()).toContain('400: half a refu')
  })

  test('whose body cannot be canceled does not delay the next try', async ({ expect }) => {
    fakeGpu(() => refusal(503, undefined, () => new Promise(() => {})), works)
    expect((await generate(await newCaller(), body)).status).toBe(200)
  })
})

test('a job that only sends heartbeats is canceled at its time limit, free of charge', async ({ expect }) => {
  const caller = await newCaller()
  const sendHeartbeats = (seen: SeenRequest) => {
    const begin = [createAccepted(seen), createStarted(seen)]
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 50))
        controller.enqueue(begin.shift() ?? encodeLine({ type: 'heartbeat' }))
      },
    })
    return new Response(body)
  }
  const calls = fakeGpu(sendHeartbeats)
  const response = await generate(caller, body)
  expect([response.status, (await problemOf(response)).error.code]).toEqual([500, 'generation_failed'])
  await vi.waitFor(() => expect(cancellations).toEqual([{ job: calls[0]!.job, attempt: 1 }]))
  expect(calls).toHaveLength(1)
  expect(await ledgerOf(caller)).toEqual(free)
})

test('time in the queue of the GPU function does not count as run time', async ({ expect }) => {
  const caller = await newCaller()
  const { behavior, send: feed } = createFeed()
  const calls = fakeGpu(behavior)
  const waiting = generate(caller, body)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  const [seen] = calls
  feed(encodeLine({ type: 'accepted', job: seen!.job, attempt: 1, position: 3 }))
  for (let beats = 0; beats < 25; beats++) {
    feed(encodeLine({ type: 'heartbeat' }))
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  feed(createStarted(seen!), ...(await createImage(seen!, 0)), encodeLine({ type: 'succeeded', images: 1, timings }))
  expect((await waiting).status).toBe(200)
})

test('the pause after the second lost attempt is four times as long as after the first', ({ expect }) => {
  const times = configOf(env).gpuTimes
  const pauses = [1, 2, 3].map((faults) => computePauseAfterLossMs({ faults } as JobRecord, times))
  expect(pauses[0]).toSatisfy((ms: number) => ms >= 7 && ms <= 13)
  expect(pauses[1]).toSatisfy((ms: number) => ms >= 30 && ms <= 50)
  expect(pauses[2]).toBe(0)
})

describe('the variables', () => {
  const given = {
    GPU_START_SECONDS: '300',
    GPU_SILENCE_SECONDS: '20',
    GPU_RUN_SECONDS: '900',
    GPU_RETRY_SECONDS: '1',
    GPU_FAILOVER_SECONDS: '15',
  }

  test('are seconds', ({ expect }) => {
    expect(createConfigWith(given).gpuTimes).toEqual({
      startMs: 300_000,
      silenceMs: 20_000,
      runMs: 900_000,
      retryMs: 1000,
      failoverMs: 15_000,
    })
  })

  test.for(['5m', '', '0', '-1', 'Infinity', '86401'])('are named in errors: "%s"', (wrong, { expect }) => {
    expect(() => createConfigWith({ ...given, GPU_START_SECONDS: wrong }).gpuTimes).toThrow(
      `GPU_START_SECONDS is "${wrong}"; it must be a number of seconds above 0 and up to 86400.`,
    )
  })

  test.for(['/v1/images/generations', '/v1/jobs'])(
    'with malformed values fail a request before anything is reserved: %s',
    async (path, { expect }) => {
      const caller = await newCaller()
      const calls = fakeGpu(works)
      const error = vi.spyOn(console, 'error')
      const before = env.GPU_RUN_SECONDS
      env.GPU_RUN_SECONDS = 'a while'
      const response = await send('POST', path, caller, body)
      env.GPU_RUN_SECONDS = before
      expect([response.status, (await problemOf(response)).error.code]).toEqual([500, 'internal'])
      expect(error.mock.calls.flat().join()).toContain('GPU_RUN_SECONDS is \\"a while\\"')
      expect(calls).toEqual([])
      expect(await env.ACCOUNT.getByName(caller.account).recentJobs(1)).toEqual([])
    },
  )
})

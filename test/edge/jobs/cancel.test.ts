// Job cancellation: the job ends at its next step, and the caller is charged for the completed steps.
import { abortAllDurableObjects } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { EndpointDO } from '../../../edge/gpu/endpoint-object.ts'
import { type Caller, filesOf, generate, ledgerOf, newCaller, problemOf, readJob, send } from '../support/client.ts'
import {
  cancellations,
  createAccepted,
  createFeed,
  createStarted,
  createSteps,
  encodeLine,
  fakeGpu,
  refuses,
  stream,
  timings,
  untilCanceled,
  works,
} from '../support/fake-gpu.ts'
import { jobOf, reservationOf, reserveJob, reset, waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

const submitTestJob = async (caller: Caller) => readJob(await send('POST', '/v1/jobs', caller, { prompt: 'a cat' }))
const priceOf = async ({ id }: { id: string }) => (await env.JOB.getByName(id).view())!.price
/** Returns the base price plus the share for `steps` of four steps. */
const chargeOf = async ({ id }: { id: string }, steps: number) => {
  const { price, basePrice } = (await env.JOB.getByName(id).view())!
  return basePrice + Math.floor(((price - basePrice) * steps) / 4)
}
const waitForState = (id: string, state: string) =>
  vi.waitFor(async () => {
    const now = (await env.JOB.getByName(id).view())!.state
    if (now !== state) throw new Error(`the job is ${now}`)
  })

describe('DELETE /v1/jobs/{id}', () => {
  test('cancels a running job at its next step and captures the share of completed steps', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(untilCanceled(3))
    const job = await submitTestJob(caller)
    await vi.waitFor(async () => expect((await env.JOB.getByName(job.id).view())?.progress).toMatchObject({ step: 3 }))
    const response = await send('DELETE', `/v1/jobs/${job.id}`, caller)
    expect(response.status).toBe(202)
    expect(await readJob(response)).toMatchObject({ state: 'running', cancel_requested: true })

    expect(await waitForEnd(job)).toMatchObject({ state: 'canceled', stepsDone: 3, attempt: 1 })
    const charged = await chargeOf(job, 3)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: charged })
    const again = await send('POST', `/v1/jobs/${job.id}/cancel`, caller)
    expect(again.status).toBe(200)
    expect(await readJob(again)).toMatchObject({
      state: 'canceled',
      price_microdollars: charged,
      error: null,
      images: [],
    })
    expect(calls).toHaveLength(1)
  })

  test('immediately cancels a job that no GPU has accepted, at no charge', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(refuses(503, 'loading'))
    const job = await submitTestJob(caller)
    await waitForState(job.id, 'starting')
    const response = await send('DELETE', `/v1/jobs/${job.id}`, caller)
    expect([response.status, (await readJob(response)).state]).toEqual([200, 'canceled'])
    await waitForEnd(job)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })

  test('cancels a job whose stream breaks after the request, without another attempt', async ({ expect }) => {
    const caller = await newCaller()
    const { behavior, send: feed, close } = createFeed()
    const calls = fakeGpu(behavior)
    const job = await submitTestJob(caller)
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    feed(createAccepted(calls[0]!), createStarted(calls[0]!), ...createSteps(1, 4))
    await waitForState(job.id, 'running')
    await send('DELETE', `/v1/jobs/${job.id}`, caller)
    close()
    expect(await waitForEnd(job)).toMatchObject({ state: 'canceled', stepsDone: 1 })
    expect(calls).toHaveLength(1)
    expect((await ledgerOf(caller)).captured).toBe(await chargeOf(job, 1))
  })

  test('cancels a job whose object was reset during a GPU attempt', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(untilCanceled(2))
    const job = await submitTestJob(caller)
    await vi.waitFor(async () => expect((await env.JOB.getByName(job.id).view())?.progress).toMatchObject({ step: 2 }))
    await abortAllDurableObjects()
    expect((await readJob(await send('DELETE', `/v1/jobs/${job.id}`, caller))).state).toBe('canceled')
    expect(await waitForEnd(job)).toMatchObject({ stepsDone: 2 })
    expect(calls.length).toBeLessThanOrEqual(2)
  })

  test('does not change a job that has ended', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    const job = await submitTestJob(caller)
    await waitForEnd(job)
    const response = await send('DELETE', `/v1/jobs/${job.id}`, caller)
    expect([response.status, (await readJob(response)).state]).toEqual([200, 'succeeded'])
    expect(await filesOf(caller)).toHaveLength(1)
    expect((await ledgerOf(caller)).captured).toBe(await priceOf(job))
  })

  test('has no effect if the job finishes first: its image is delivered and charged', async ({ expect }) => {
    const caller = await newCaller()
    const { behavior, send: feed } = createFeed()
    const calls = fakeGpu(behavior)
    const job = await submitTestJob(caller)
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    feed(createAccepted(calls[0]!), createStarted(calls[0]!))
    await waitForState(job.id, 'running')
    await send('DELETE', `/v1/jobs/${job.id}`, caller)
    const finished = await works(calls[0]!)
    feed(...(await readLateParts(finished)))
    expect(await waitForEnd(job)).toMatchObject({ state: 'succeeded', cancelRequested: true })
    expect((await ledgerOf(caller)).captured).toBe(await priceOf(job))
  })

  test('requires scope generate', async ({ expect }) => {
    const caller = await newCaller({ scopes: ['read'] })
    expect((await send('DELETE', '/v1/jobs/order-17', caller)).status).toBe(403)
  })
})

/** Returns the part of the `works` response after the `accepted` and `started` lines. */
async function readLateParts(response: Response): Promise<Uint8Array[]> {
  const bytes = new Uint8Array(await response.arrayBuffer())
  const at = new TextDecoder('latin1').decode(bytes).indexOf('{"type":"step"')
  return [bytes.slice(at)]
}

test('a caller waiting for a job canceled by another request gets job_canceled and no retry hint', async ({
  expect,
}) => {
  const caller = await newCaller()
  const calls = fakeGpu(untilCanceled(0))
  const waiting = generate(caller, { prompt: 'a cat' })
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  await waitForState(calls[0]!.job, 'running')
  await send('DELETE', `/v1/jobs/${calls[0]!.job}`, caller)
  const response = await waiting
  expect([response.status, (await problemOf(response)).error.code]).toEqual([409, 'job_canceled'])
  expect(response.headers.get('x-should-retry')).toBe('false')
})

test('a job canceled by the GPU function without a cancel request is retried', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(
    (seen) =>
      stream([createAccepted(seen), createStarted(seen), encodeLine({ type: 'canceled', steps_done: 2, timings })]),
    works,
  )
  expect(await waitForEnd(await submitTestJob(caller))).toMatchObject({ state: 'succeeded', attempt: 2 })
  expect(calls).toHaveLength(2)
})

test('a job canceled after its start but before its first step is charged the base price', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu(untilCanceled(0))
  const job = await submitTestJob(caller)
  await waitForState(job.id, 'running')
  await send('DELETE', `/v1/jobs/${job.id}`, caller)
  await waitForEnd(job)
  expect((await ledgerOf(caller)).captured).toBe(await chargeOf(job, 0))
})

test('a cancellation before the GPU responds aborts the GPU request and is also sent to the GPU', async ({
  expect,
}) => {
  const caller = await newCaller()
  let aborted = false
  const calls = fakeGpu(
    ({ signal }) =>
      new Promise((_, reject) => {
        signal!.addEventListener('abort', () => {
          aborted = true
          reject(new Error('connection closed'))
        })
      }),
  )
  const job = await submitTestJob(caller)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  expect((await readJob(await send('DELETE', `/v1/jobs/${job.id}`, caller))).state).toBe('canceled')
  await vi.waitFor(() => expect([aborted, cancellations]).toEqual([true, [{ job: job.id, attempt: 1 }]]))
})

test('if the GPU container that receives the cancellation does not know the job, the job stream is closed immediately', async ({
  expect,
}) => {
  const caller = await newCaller()
  let left = false
  const calls = fakeGpu((seen) => {
    const parts = [createAccepted(seen), createStarted(seen), ...createSteps(1, 4)]
    const pull = async (controller: ReadableStreamDefaultController<Uint8Array>) => {
      await new Promise((resolve) => setTimeout(resolve, 20))
      controller.enqueue(parts.shift() ?? encodeLine({ type: 'heartbeat' }))
    }
    const cancel = () => {
      left = true
    }
    return new Response(new ReadableStream({ pull, cancel }), { headers: { 'content-type': 'application/x-ndjson' } })
  })
  const job = await submitTestJob(caller)
  await vi.waitFor(async () => expect((await env.JOB.getByName(job.id).view())?.progress).toMatchObject({ step: 1 }))
  calls.length = 0
  expect((await readJob(await send('DELETE', `/v1/jobs/${job.id}`, caller))).state).toBe('canceled')
  await vi.waitFor(() => expect(left).toBe(true))
  await waitForEnd(job)
  expect((await ledgerOf(caller)).captured).toBe(await chargeOf(job, 1))
})

test('all GPU requests of a job carry the same affinity hint', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(untilCanceled(1))
  const sent = vi.mocked(fetch)
  const job = await submitTestJob(caller)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  await send('DELETE', `/v1/jobs/${job.id}`, caller)
  await waitForEnd(job)
  const hints = sent.mock.calls.map(([input, init]) => new Request(input, init).headers.get('modal-session-id'))
  expect(hints.length).toBeGreaterThan(1)
  expect(new Set(hints)).toEqual(new Set([job.id]))
})

test('a cancellation survives a reset of the job, and no further attempt starts', async ({ expect }) => {
  const caller = await newCaller()
  const { behavior, send: feed } = createFeed()
  const calls = fakeGpu((seen) => {
    feed(createAccepted(seen), createStarted(seen), ...createSteps(2, 4))
    return behavior(seen)
  }, works)
  const job = await submitTestJob(caller)
  await vi.waitFor(async () => expect((await env.JOB.getByName(job.id).view())?.progress).toMatchObject({ step: 2 }))
  expect((await send('DELETE', `/v1/jobs/${job.id}`, caller)).status).toBe(202)
  await reset(jobOf(job))
  expect(await waitForEnd(job)).toMatchObject({ state: 'canceled', attempt: 1, stepsDone: 2 })
  expect(calls).toHaveLength(1)
  expect((await ledgerOf(caller)).captured).toBe(await chargeOf(job, 2))
})

test('a cancellation while the job requests its slot prevents the attempt', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(works)
  const spec = await reserveJob(caller)
  const { requestSlot } = EndpointDO.prototype
  const asked = vi.spyOn(EndpointDO.prototype, 'requestSlot').mockImplementationOnce(async function (
    this: EndpointDO,
    ...request: Parameters<EndpointDO['requestSlot']>
  ) {
    await new Promise((answer) => setTimeout(answer, 300))
    return requestSlot.apply(this, request)
  } as never)
  const create = jobOf(spec).create(reservationOf(spec))
  await vi.waitFor(() => expect(asked).toHaveBeenCalled())
  await jobOf(spec).cancel()
  await create
  expect(await waitForEnd(spec)).toMatchObject({ state: 'canceled', attempt: 0, waiting: null })
  expect(calls).toHaveLength(0)
  expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
})

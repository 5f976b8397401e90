// The slots of an endpoint: jobs wait at the edge, and one account's flood does not delay another account's job.
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, test, vi } from 'vitest'
import { EndpointDO } from '../../../edge/gpu/endpoint-object.ts'
import { JobDO } from '../../../edge/jobs/job.ts'
import { accountOf } from '../support/admissions.ts'
import { type Caller, generate, generatedOf, newCaller, readJob, send } from '../support/client.ts'
import {
  type Behavior,
  createAccepted,
  createFeed,
  createImage,
  createStarted,
  createSteps,
  encodeLine,
  fakeGpu,
  stream,
  timings,
  works,
} from '../support/fake-gpu.ts'
import { jobOf, reset, waitForEnd } from '../support/jobs.ts'

const before = { slots: env.GPU_SLOTS, recovery: env.OCTET_RECOVERY }
beforeEach(async () => {
  env.GPU_SLOTS = '1'
  await reset(env.ENDPOINT.getByName('default'))
})
afterEach(() => {
  env.GPU_SLOTS = before.slots
  env.OCTET_RECOVERY = before.recovery
  vi.restoreAllMocks()
})

/** A GPU whose jobs start, and end one by one when the test calls `finishNext`. */
function fakeHeldGpu() {
  const held: (() => Promise<void>)[] = []
  const behavior: Behavior = (seen) => {
    const { behavior: respond, send: feed } = createFeed()
    feed(createAccepted(seen), createStarted(seen))
    const beating = setInterval(() => feed(encodeLine({ type: 'heartbeat' })), 50)
    held.push(async () => {
      clearInterval(beating)
      feed(...(await createImage(seen, 0)), encodeLine({ type: 'succeeded', images: 1, timings }))
    })
    return respond(seen)
  }
  return { behavior, finishNext: () => held.shift()!() }
}

const submit = async (caller: Caller) => readJob(await send('POST', '/v1/jobs', caller, { prompt: 'a cat', steps: 4 }))
const stateOf = async (job: { id: string }) => (await jobOf(job).view())?.state

test('a job that arrives after a flood of another account is sent after at most three jobs of the flood', async ({
  expect,
}) => {
  const [flooder, other] = [await newCaller(), await newCaller()]
  const { behavior, finishNext } = fakeHeldGpu()
  const calls = fakeGpu(behavior)
  const flood = await Promise.all(Array.from({ length: 5 }, () => submit(flooder)))
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  const job = await submit(other)
  expect(await stateOf(job)).toBe('queued')
  for (let ended = 0; ended < 6; ended++) {
    await vi.waitFor(() => expect(calls).toHaveLength(ended + 1))
    await finishNext()
  }
  expect(calls.findIndex((call) => call.job === job.id)).toBeLessThanOrEqual(3)
  for (const each of [...flood, job]) expect((await waitForEnd(each)).state).toBe('succeeded')
  expect(await accountOf(flooder).audit()).toMatchObject({ kept: { open: 0 }, summed: { open: 0 } })
})

test('the next job is sent to the GPU during the last step, so that the GPU is never idle between jobs', async ({
  expect,
}) => {
  const caller = await newCaller()
  const gpu = createFeed()
  const calls = fakeGpu(gpu.behavior, works)
  const first = await submit(caller)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  const second = await submit(caller)
  gpu.send(createAccepted(calls[0]!), createStarted(calls[0]!), ...createSteps(2, 4))
  await vi.waitFor(async () => expect((await jobOf(first).view())?.progress).toMatchObject({ step: 2 }))
  expect(calls).toHaveLength(1)
  gpu.send(encodeLine({ type: 'step', image: 0, step: 3, steps: 4 }))
  expect((await waitForEnd(second)).state).toBe('succeeded')
  expect(await stateOf(first)).toBe('running')
  gpu.send(...(await createImage(calls[0]!, 0)), encodeLine({ type: 'succeeded', images: 1, timings }))
  expect((await waitForEnd(first)).state).toBe('succeeded')
})

test('an unreachable job passes its slot to the next job, and requests another', async ({ expect }) => {
  const caller = await newCaller()
  const { behavior, finishNext } = fakeHeldGpu()
  const calls = fakeGpu(behavior)
  const first = await submit(caller)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  const [second, third] = [await submit(caller), await submit(caller)]
  const { proceed } = JobDO.prototype
  vi.spyOn(JobDO.prototype, 'proceed')
    .mockRejectedValueOnce(new Error('lost'))
    .mockImplementation(function (this: JobDO) {
      return proceed.call(this)
    })
  await finishNext()
  await waitForEnd(first)
  await vi.waitFor(() => expect(calls).toHaveLength(2))
  expect(calls[1]!.job).toBe(third.id)
  await finishNext()
  await waitForEnd(third)
  await vi.waitFor(() => expect(calls).toHaveLength(3), { timeout: 20_000 })
  await finishNext()
  expect((await waitForEnd(second)).state).toBe('succeeded')
})

test('a waiting job that is canceled neither runs nor delays the next job', async ({ expect }) => {
  const caller = await newCaller()
  const { behavior, finishNext } = fakeHeldGpu()
  const calls = fakeGpu(behavior)
  await submit(caller)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  const waiting = await submit(caller)
  const response = await send('DELETE', `/v1/jobs/${waiting.id}`, caller)
  expect([response.status, (await readJob(response)).state]).toEqual([200, 'canceled'])
  const next = generate(caller, { prompt: 'a cat' })
  await finishNext()
  await vi.waitFor(() => expect(calls).toHaveLength(2))
  await finishNext()
  expect((await generatedOf(await next)).data).toHaveLength(1)
})

test('a GPU that accepts nothing does not delay other jobs, which all fail in time', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(() => Response.json({ code: 'loading' }, { status: 503 }))
  const jobs = await Promise.all(Array.from({ length: 4 }, () => submit(caller)))
  for (const job of jobs) expect((await waitForEnd(job, 20_000)).error?.code).toBe('gpu_unavailable')
  // Each job is offered before the last offer of any other: none waits for the failure of another.
  const offers = calls.map(({ job }) => job)
  const last = Math.min(...jobs.map(({ id }) => offers.lastIndexOf(id)))
  for (const { id } of jobs) expect(offers.slice(0, last + 1)).toContain(id)
})

test('waiting and running jobs continue after the loss of the queue', async ({ expect }) => {
  env.OCTET_RECOVERY = '{"job_seconds": 0.2}' as never
  const caller = await newCaller()
  const { behavior, finishNext } = fakeHeldGpu()
  const calls = fakeGpu(behavior)
  const [first, second] = [await submit(caller), await submit(caller)]
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  const renewed = vi.spyOn(EndpointDO.prototype, 'renewSlot')
  await reset(env.ENDPOINT.getByName('default'))
  await vi.waitFor(() => expect(renewed).toHaveBeenCalled())
  await finishNext()
  await vi.waitFor(() => expect(calls).toHaveLength(2))
  await finishNext()
  for (const job of [first, second]) expect((await waitForEnd(job)).state).toBe('succeeded')
})

test('a lost attempt keeps its slot, because the next one joins its run', async ({ expect }) => {
  const caller = await newCaller()
  const lost: Behavior = (seen) => stream([createAccepted(seen), createStarted(seen), ...createSteps(2, 4)], 'cut')
  const calls = fakeGpu(lost, works)
  const first = await submit(caller)
  const second = await submit(caller)
  for (const job of [first, second]) expect((await waitForEnd(job)).state).toBe('succeeded')
  expect(calls.map(({ job }) => job)).toEqual([first.id, first.id, second.id])
})

test('a canceled job leaves the queue immediately', async ({ expect }) => {
  const caller = await newCaller()
  const { behavior, finishNext } = fakeHeldGpu()
  const calls = fakeGpu(behavior)
  const first = await submit(caller)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  const waiting = await submit(caller)
  const released = vi.spyOn(EndpointDO.prototype, 'releaseSlot')
  await send('DELETE', `/v1/jobs/${waiting.id}`, caller)
  await vi.waitFor(() => expect(released).toHaveBeenCalledWith(waiting.id))
  // The cancellation released the place in the queue, not the end of the first job.
  expect(await stateOf(first)).toBe('running')
  await finishNext()
})

test('a job of one step keeps its slot to the end, because all of its GPU time counts as usage', async ({ expect }) => {
  const caller = await newCaller()
  const gpu = createFeed()
  const calls = fakeGpu(gpu.behavior, works)
  const first = await readJob(await send('POST', '/v1/jobs', caller, { prompt: 'a cat', steps: 1 }))
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  const second = await submit(caller)
  gpu.send(createAccepted(calls[0]!), createStarted(calls[0]!), ...createSteps(1, 1))
  await vi.waitFor(async () => expect((await jobOf(first).view())?.progress).toMatchObject({ step: 1 }))
  expect(calls).toHaveLength(1)
  gpu.send(...(await createImage(calls[0]!, 0)), encodeLine({ type: 'succeeded', images: 1, timings }))
  expect((await waitForEnd(second)).state).toBe('succeeded')
})

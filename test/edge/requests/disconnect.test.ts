// Callers that disconnect before the response. The tests abort the request's signal, as the platform does on a disconnect.
import { createExecutionContext, runInDurableObject, waitOnExecutionContext } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, test, vi } from 'vitest'
import { AccountDO } from '../../../edge/accounts/account.ts'
import { app } from '../../../edge/app.ts'
import { type Caller, ledgerOf, newCaller, ORIGIN } from '../support/client.ts'
import {
  createAccepted,
  createFeed,
  createImage,
  createStarted,
  encodeLine,
  fakeGpu,
  timings,
  untilCanceled,
  works,
} from '../support/fake-gpu.ts'
import { jobOf, reset, waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

/** Sends an image request, or a job request if `prefer` is given, over a connection that `cut` closes. */
function request(caller: Caller, fields: object, prefer?: string) {
  const connection = new AbortController()
  const context = createExecutionContext()
  const headers = { 'content-type': 'application/json', ...caller.headers, ...(prefer && { prefer }) }
  const path = prefer ? '/v1/jobs' : '/v1/images/generations'
  const body = JSON.stringify({ prompt: 'a cat', ...fields })
  const init = { method: 'POST', headers, body, signal: connection.signal }
  const reply = app.fetch(new Request(`${ORIGIN}${path}`, init), env, context)
  return { reply: Promise.resolve(reply), cut: () => connection.abort(), ended: () => waitOnExecutionContext(context) }
}

test('on_disconnect "cancel" cancels the job and charges for the completed steps', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(untilCanceled(2))
  const { reply, cut, ended } = request(caller, { on_disconnect: 'cancel' })
  await vi.waitFor(async () => expect((await jobOf({ id: calls[0]!.job }).view())?.progress).toMatchObject({ step: 2 }))
  cut()
  await ended()
  const job = await waitForEnd({ id: calls[0]!.job })
  expect(job).toMatchObject({ state: 'canceled', stepsDone: 2 })
  expect(await ledgerOf(caller)).toEqual({
    reserved: 0,
    captured: job.basePrice + Math.floor((job.price - job.basePrice) / 2),
  })
  expect((await reply).status).toBe(409)
})

test.for([{}, { on_disconnect: 'continue' }])(
  'the job continues after a disconnect with %j',
  async (fields, { expect }) => {
    const caller = await newCaller()
    const { behavior, send: feed } = createFeed()
    const calls = fakeGpu(behavior)
    const { reply, cut } = request(caller, fields)
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    cut()
    const [seen] = calls
    feed(
      createAccepted(seen!),
      createStarted(seen!),
      ...(await createImage(seen!, 0)),
      encodeLine({ type: 'succeeded', images: 1, timings }),
    )
    expect(await waitForEnd({ id: seen!.job })).toMatchObject({ state: 'succeeded', cancelRequested: false })
    await reply
  },
)

test('a job shared by several callers is canceled only after the last one disconnects', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(untilCanceled(1))
  const fields = { on_disconnect: 'cancel', seed: 7 }
  const first = request(caller, fields)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  const second = request(caller, fields)
  const job = { id: calls[0]!.job }
  await vi.waitFor(async () => expect((await jobOf(job).view())?.progress).toMatchObject({ step: 1 }))
  await vi.waitFor(async () => expect(await jobOf(job).waiting()).toBe(2))
  first.cut()
  await first.ended()
  expect(await jobOf(job).view()).toMatchObject({ state: 'running', cancelRequested: false })
  second.cut()
  expect((await waitForEnd(job)).state).toBe('canceled')
  await Promise.all([first.reply, second.reply])
})

test('a job shared with the reader of a stream is not canceled when the other caller disconnects', async ({
  expect,
}) => {
  const caller = await newCaller()
  const calls = fakeGpu(untilCanceled(1))
  const fields = { on_disconnect: 'cancel', seed: 7 }
  const first = request(caller, fields)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  const job = { id: calls[0]!.job }
  const second = request(caller, { ...fields, stream: true })
  const { headers, body } = await second.reply
  expect(headers.get('x-octet-job')).toBe(job.id)
  await vi.waitFor(async () => expect(await jobOf(job).waiting()).toBe(2))
  first.cut()
  await first.ended()
  expect(await jobOf(job).view()).toMatchObject({ cancelRequested: false })
  second.cut()
  await body!.cancel()
  expect((await waitForEnd(job)).state).toBe('canceled')
  await first.reply
})

test('a request does not join an equal one whose job is being canceled', async ({ expect }) => {
  const caller = await newCaller()
  const { behavior, send: feed } = createFeed()
  const calls = fakeGpu(behavior, works)
  const fields = { on_disconnect: 'cancel' }
  const first = request(caller, fields)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  const [seen] = calls
  // The step in progress goes on after the confirmation of the cancellation.
  feed(createAccepted(seen!), createStarted(seen!))
  await vi.waitFor(async () => expect(await jobOf({ id: seen!.job }).view()).toMatchObject({ state: 'running' }))
  first.cut()
  await first.ended()
  expect(await jobOf({ id: seen!.job }).view()).toMatchObject({ state: 'running', cancelRequested: true })
  const second = request(caller, fields)
  const account = env.ACCOUNT.getByName(caller.account)
  await vi.waitFor(async () => expect(await account.recentJobs(9)).toHaveLength(2))
  feed(encodeLine({ type: 'canceled', steps_done: 1, timings }))
  const { status, headers } = await second.reply
  expect([status, headers.get('x-octet-job') === seen!.job]).toEqual([200, false])
  await first.reply
})

test('after a reset, a disconnect does not cancel the job before the other callers could repeat their calls', async ({
  expect,
}) => {
  const caller = await newCaller()
  const calls = fakeGpu(untilCanceled(1))
  const { reply } = request(caller, { on_disconnect: 'cancel' })
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  const job = { id: calls[0]!.job }
  await vi.waitFor(async () => expect((await jobOf(job).view())?.progress).toMatchObject({ step: 1 }))
  await reset(jobOf(job))
  // A caller that had waited as well disconnects before the call of the first one is repeated.
  const leaving = jobOf(job).leave('another caller')
  await vi.waitFor(async () => expect(await jobOf(job).waiting()).toBe(1))
  await leaving
  expect(await jobOf(job).view()).toMatchObject({ cancelRequested: false })
  await jobOf(job).cancel()
  expect((await waitForEnd(job)).state).toBe('canceled')
  await reply
})

test('Prefer: wait: a disconnect cancels the job while the caller waits, but not after the response', async ({
  expect,
}) => {
  const caller = await newCaller()
  const calls = fakeGpu(untilCanceled(2))
  const fields = { on_disconnect: 'cancel', seed: 7 }
  const answered = request(caller, fields, 'wait=1')
  expect((await answered.reply).status).toBe(202)
  answered.cut()
  await answered.ended()
  const job = { id: calls[0]!.job }
  expect(await jobOf(job).view()).toMatchObject({ state: 'running', cancelRequested: false })
  const left = request(caller, fields, 'wait=60')
  await vi.waitFor(async () => expect(await jobOf(job).waiting()).toBe(1))
  left.cut()
  await left.ended()
  expect(await waitForEnd(job)).toMatchObject({ state: 'canceled', stepsDone: 2 })
  expect((await left.reply).status).toBe(200)
})

test('on_disconnect rejects any other value', async ({ expect }) => {
  const { reply } = request(await newCaller(), { on_disconnect: 'retry' })
  const { detail } = (await (await reply).json()) as { detail: string }
  expect(detail).toBe('on_disconnect is "retry"; it must be one of continue, cancel.')
})

test('a disconnect during admission costs nothing and sends no GPU request', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(untilCanceled(2))
  const { admit } = AccountDO.prototype
  let isAdmitted = false
  vi.spyOn(AccountDO.prototype, 'admit').mockImplementationOnce(async function (this: AccountDO, request) {
    const admission = await admit.call(this, request)
    isAdmitted = true
    await new Promise((answer) => setTimeout(answer, 200))
    return admission
  })
  const { reply, cut, ended } = request(caller, { on_disconnect: 'cancel' })
  await vi.waitFor(() => expect(isAdmitted).toBe(true))
  cut()
  expect((await reply).status).toBe(409)
  await ended()
  expect(calls).toHaveLength(0)
  expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
})

test('after a disconnect, the next equal request gets the result of the job that ended meanwhile, once', async ({
  expect,
}) => {
  const caller = await newCaller()
  const { behavior, send: feed, close } = createFeed()
  const calls = fakeGpu(behavior, works)
  const first = request(caller, {})
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  first.cut()
  await first.ended()
  const [seen] = calls
  feed(
    createAccepted(seen!),
    createStarted(seen!),
    ...(await createImage(seen!, 0)),
    encodeLine({ type: 'succeeded', images: 1, timings }),
  )
  close()
  const { price } = await waitForEnd({ id: seen!.job })
  const jobs: (string | null)[] = []
  for (const _ of ['retry', 'new request']) jobs.push((await request(caller, {}).reply).headers.get('x-octet-job'))
  expect([jobs[0] === seen!.job, jobs[1] === seen!.job]).toEqual([true, false])
  await vi.waitFor(async () => expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 2 * price }))
  await first.reply
})

test('after a disconnect and a cancellation, an equal request is a new job', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(untilCanceled(1), works)
  const first = request(caller, {})
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  first.cut()
  await first.ended()
  await jobOf({ id: calls[0]!.job }).cancel()
  await waitForEnd({ id: calls[0]!.job })
  const second = await request(caller, {}).reply
  expect([second.status, second.headers.get('x-octet-job') === calls[0]!.job]).toEqual([200, false])
  await first.reply
})

test('after a disconnect, the next equal request joins a job that has run for more than a minute', async ({
  expect,
}) => {
  const caller = await newCaller()
  const { behavior, send: feed, close } = createFeed()
  const calls = fakeGpu(behavior)
  const first = request(caller, {})
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  await runInDurableObject(env.ACCOUNT.getByName(caller.account), (_, { storage }) => {
    storage.sql.exec('UPDATE ledger SET reserved = reserved - 120000')
  })
  first.cut()
  await first.ended()
  const second = request(caller, {})
  const [seen] = calls
  feed(
    createAccepted(seen!),
    createStarted(seen!),
    ...(await createImage(seen!, 0)),
    encodeLine({ type: 'succeeded', images: 1, timings }),
  )
  close()
  expect((await second.reply).headers.get('x-octet-job')).toBe(seen!.job)
  await first.reply
})

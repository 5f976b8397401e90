// A caller who leaves before the reply. The platform tells it by the request's signal, which the tests abort themselves.
import { createExecutionContext, waitOnExecutionContext } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, test, vi } from 'vitest'
import { app } from '../../edge/app.ts'
import { type Caller, ledgerOf, newCaller, ORIGIN } from './client.ts'
import { accepted, fakeGpu, fed, image, line, started, timings, untilCanceled } from './fake-gpu.ts'
import { jobOf, over } from './jobs.ts'

afterEach(() => vi.restoreAllMocks())

/** A request for an image whose connection can be cut; with `prefer`, for a job. */
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

test('on_disconnect "cancel" takes the job along, at the price of the steps that ran', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(untilCanceled(2))
  const { reply, cut, ended } = request(caller, { on_disconnect: 'cancel' })
  await vi.waitFor(async () => expect((await jobOf({ id: calls[0]!.job }).view())?.progress).toMatchObject({ step: 2 }))
  cut()
  await ended()
  const job = await over({ id: calls[0]!.job })
  expect(job).toMatchObject({ state: 'canceled', stepsDone: 2 })
  expect(await ledgerOf(caller)).toEqual({
    reserved: 0,
    captured: job.basePrice + Math.floor((job.price - job.basePrice) / 2),
  })
  expect((await reply).status).toBe(409)
})

test.for([{}, { on_disconnect: 'continue' }])('the job goes on otherwise: %j', async (fields, { expect }) => {
  const caller = await newCaller()
  const { behaviour, send: feed } = fed()
  const calls = fakeGpu(behaviour)
  const { reply, cut } = request(caller, fields)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  cut()
  const [seen] = calls
  feed(accepted(seen!), started(seen!), ...(await image(seen!, 0)), line({ type: 'succeeded', images: 1, timings }))
  expect(await over({ id: seen!.job })).toMatchObject({ state: 'succeeded', cancelRequested: false })
  await reply
})

test('a job that another caller waits for as well goes on until the last has left', async ({ expect }) => {
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
  expect((await over(job)).state).toBe('canceled')
  await Promise.all([first.reply, second.reply])
})

test('a job whose caller only prefers to wait ends with that caller, but not once the reply is there', async ({
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
  expect(await over(job)).toMatchObject({ state: 'canceled', stepsDone: 2 })
  expect((await left.reply).status).toBe(200)
})

test('on_disconnect takes no other word', async ({ expect }) => {
  const { reply } = request(await newCaller(), { on_disconnect: 'retry' })
  const { detail } = (await (await reply).json()) as { detail: string }
  expect(detail).toBe('on_disconnect is "retry"; it must be one of continue, cancel.')
})

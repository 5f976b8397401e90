// Deliveries to a receiver: signed according to Standard Webhooks, sent after the result is stored, and repeated until a 2xx response.
import { abortAllDurableObjects, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import OpenAI from 'openai'
import { Webhook } from 'standardwebhooks'
import { afterEach, describe, test, vi } from 'vitest'
import { announce } from '../../../edge/jobs/announcement.ts'
import { fetchWorker, generate, generatedOf } from '../support/client.ts'
import { createImageBytes, fakeGpu, works } from '../support/fake-gpu.ts'
import { createFinalJob } from '../support/jobs.ts'
import {
  addEndpoint,
  callWebhookApi,
  deliveriesOf,
  newManager,
  outboxOf,
  passTime,
  waitForDeliveries,
} from '../support/manager.ts'
import { createHangingReceiver, fakeReceiver, payloadOf, RECEIVER, waitForRequests } from '../support/receiver.ts'

afterEach(() => vi.restoreAllMocks())

describe('a delivery', () => {
  test('is verified by the official library and by the openai client', async ({ expect }) => {
    const caller = await newManager()
    const calls = fakeReceiver()
    const { secret } = await addEndpoint(caller)
    const job = createFinalJob(caller)
    await announce(env, job)
    await waitForRequests(calls, 1)
    const { headers, body, redirect } = calls[0]!
    expect(new Webhook(secret).verify(body, headers)).toEqual(JSON.parse(body))
    const client = new OpenAI({ apiKey: 'none', webhookSecret: secret })
    expect(await client.webhooks.unwrap(body, headers)).toEqual(JSON.parse(body))
    expect(headers).toMatchObject({ 'webhook-id': `evt_${job.id}`, 'content-type': 'application/json' })
    expect(redirect).toBe('manual')
    expect(payloadOf(calls[0]!)).toMatchObject({
      ...{ id: calls[0]!.headers['webhook-id'], type: 'job.succeeded' },
      created_at: Math.floor(Date.parse(payloadOf(calls[0]!).timestamp) / 1000),
      data: { id: job.id, state: 'succeeded' },
    })
    expect(body).not.toContain('a secret prompt')
    expect(body).not.toContain('results/30d')
    expect(() => new Webhook(secret).verify(body.replace('succeeded', 'failed'), headers)).toThrow('No matching')
  })

  test('is sent once the result is available under its link', async ({ expect }) => {
    const caller = await newManager()
    fakeGpu(works)
    const fetched: unknown[] = []
    const calls = fakeReceiver(async (received) => {
      const [image] = payloadOf(received).data.images
      const response = await fetchWorker(image!.url)
      fetched.push(response.status, new Uint8Array(await response.arrayBuffer()))
      return 200
    })
    await addEndpoint(caller)
    const { octet } = await generatedOf(await generate(caller, { prompt: 'a cat', seed: 3 }))
    await waitForRequests(calls, 1)
    await vi.waitFor(() => expect(fetched).toEqual([200, createImageBytes(3)]))
    expect(payloadOf(calls[0]!).data.id).toBe(octet.job)
    expect(calls[0]!.body).not.toContain('b64_json')
  })

  test('has less than 20 kB for any job', async ({ expect }) => {
    const caller = await newManager()
    const [image] = createFinalJob(caller).images
    const images = Array.from({ length: 8 }, (_, k) => ({ ...image!, image: k, receipt: 'x'.repeat(2000) }))
    const long = { code: 'generation_failed' as const, message: 'm'.repeat(50_000) }
    const job = createFinalJob(caller, { images, error: long, warnings: Array(50).fill(long) })
    const calls = fakeReceiver()
    await addEndpoint(caller)
    await announce(env, job)
    await waitForRequests(calls, 1)
    expect(payloadOf(calls[0]!).data.images).toHaveLength(8)
    expect(new TextEncoder().encode(calls[0]!.body).length).toBeLessThan(20_000)
  })

  test('is also sent to the URL of the request, signed with the default secret', async ({ expect }) => {
    const caller = await newManager()
    const calls = fakeReceiver()
    await announce(env, createFinalJob(caller, { webhook: `${RECEIVER}/mine` }))
    await waitForRequests(calls, 1)
    const { key } = (await (await callWebhookApi(caller, 'GET', '/default/secret')).json()) as { key: string }
    expect(calls[0]!.url).toBe(`${RECEIVER}/mine`)
    expect(new Webhook(key).verify(calls[0]!.body, calls[0]!.headers)).toMatchObject({ type: 'job.succeeded' })
    expect(await deliveriesOf(caller, 'default')).toMatchObject([{ url: `${RECEIVER}/mine` }])
  })
})

describe('payloads', () => {
  test('failed and canceled jobs have no images; an open job is not announced', async ({ expect }) => {
    const caller = await newManager()
    const calls = fakeReceiver()
    await addEndpoint(caller)
    const error = { code: 'generation_failed' as const, message: 'It failed.' }
    await announce(env, createFinalJob(caller, { state: 'failed', error }))
    await announce(env, createFinalJob(caller, { state: 'canceled' }))
    await expect(announce(env, createFinalJob(caller, { state: 'running' }))).rejects.toThrow('nothing to announce')
    await waitForRequests(calls, 2)
    const told = calls.map(payloadOf).toSorted((a, b) => a.type.localeCompare(b.type))
    expect(told.map(({ type, data }) => [type, data.images, data.error?.code])).toEqual([
      ['job.canceled', [], undefined],
      ['job.failed', [], 'generation_failed'],
    ])
  })

  test('is sent to the enabled endpoints whose filter matches', async ({ expect }) => {
    const caller = await newManager()
    const calls = fakeReceiver()
    await addEndpoint(caller, { url: `${RECEIVER}/failures`, events: ['job.failed'] })
    const { id } = await addEndpoint(caller, { url: `${RECEIVER}/disabled` })
    await callWebhookApi(caller, 'PATCH', `/${id}`, { disabled: true })
    await addEndpoint(caller, { url: `${RECEIVER}/all` })
    await announce(env, createFinalJob(caller))
    await announce(env, createFinalJob(caller, { state: 'failed' }))
    await waitForRequests(calls, 3)
    await waitForDeliveries(caller)
    expect(calls.map(({ url }) => url.slice(RECEIVER.length)).toSorted()).toEqual(['/all', '/all', '/failures'])
  })

  test('nothing is stored for an account without a receiver', async ({ expect }) => {
    const caller = await newManager()
    await announce(env, createFinalJob(caller))
    expect(await outboxOf(caller).deliveries('default', { limit: 10 })).toEqual([])
    const { id } = await addEndpoint(caller)
    const since = new Date(0).toISOString()
    expect(await (await callWebhookApi(caller, 'POST', `/${id}/replay`, { since })).json()).toMatchObject({ count: 0 })
  })
})

describe('delivery at least once, without unnecessary repetitions', () => {
  test('a repeated announcement of a job creates one delivery', async ({ expect }) => {
    const caller = await newManager()
    const calls = fakeReceiver()
    const { id } = await addEndpoint(caller)
    const job = createFinalJob(caller)
    await Promise.all([announce(env, job), announce(env, job), announce(env, job)])
    await waitForRequests(calls, 1)
    await waitForDeliveries(caller)
    await addEndpoint(caller, { url: `${RECEIVER}/later` })
    await announce(env, job)
    await waitForDeliveries(caller)
    expect(calls).toHaveLength(1)
    expect(await deliveriesOf(caller, id)).toMatchObject([{ state: 'delivered', attempts: [{ status: 204 }] }])
  })

  test('an attempt interrupted by a reset of the outbox is repeated only after its lease', async ({ expect }) => {
    const caller = await newManager()
    const stuck = createHangingReceiver()
    const calls = fakeReceiver((_, call) => (call === 1 ? stuck.answer() : 204))
    const { id } = await addEndpoint(caller)
    await announce(env, createFinalJob(caller))
    await waitForRequests(calls, 1)
    await abortAllDurableObjects()
    await runDurableObjectAlarm(outboxOf(caller))
    const [held] = await deliveriesOf(caller, id)
    expect([calls.length, held!.state]).toEqual([1, 'pending'])
    await passTime(caller)
    await waitForDeliveries(caller)
    expect(calls.map(({ headers }) => headers['webhook-id'])).toEqual(Array(2).fill(held!.event))
    expect(await deliveriesOf(caller, id)).toMatchObject([{ state: 'delivered', attempts: [{ status: 204 }] }])
  })

  test('a duplicate alarm makes each attempt once', async ({ expect }) => {
    const caller = await newManager()
    const stuck = createHangingReceiver()
    const calls = fakeReceiver(stuck.answer)
    await addEndpoint(caller)
    await announce(env, createFinalJob(caller))
    await waitForRequests(calls, 1)
    await runInDurableObject(outboxOf(caller), (outbox) => Promise.race([outbox.alarm(), Promise.resolve()]))
    stuck.release()
    await waitForDeliveries(caller)
    expect(calls).toHaveLength(1)
  })
})

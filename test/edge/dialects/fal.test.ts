// fal's API through the worker, with the official client and the AI SDK: only the hosts and the key differ.
import { env } from 'cloudflare:workers'
import { createFal } from '@ai-sdk/fal'
import { createFalClient } from '@fal-ai/client'
import { generateImage } from 'ai'
import { afterEach, describe, test, vi } from 'vitest'
import { UNLIMITED } from '../../../edge/config/limits.ts'
import { announce } from '../../../edge/jobs/announcement.ts'
import { type Caller, fetchWorker, ledgerOf, newCaller, ORIGIN, send } from '../support/client.ts'
import { createImageBytes, fakeGpu, refuses, untilCanceled, works } from '../support/fake-gpu.ts'
import { createFinalJob, waitForEnd } from '../support/jobs.ts'
import { newManager } from '../support/manager.ts'
import { fakeReceiver, RECEIVER } from '../support/receiver.ts'

afterEach(() => vi.restoreAllMocks())

const fetch = (url: string | URL | Request, init?: RequestInit) =>
  fetchWorker(url instanceof Request ? url.url : String(url), init)

/** The client with the worker in place of fal's hosts. */
const clientOf = ({ key }: Pick<Caller, 'key'>) =>
  createFalClient({
    credentials: key,
    fetch,
    requestMiddleware: async (request) => ({
      ...request,
      url: request.url
        .replace('https://queue.fal.run', `${ORIGIN}/fal/queue`)
        .replace('https://fal.run', `${ORIGIN}/fal/run`),
    }),
  })

const input = { prompt: 'a lighthouse', seed: 7 }
type Output = {
  images: { url: string; width: number; height: number; content_type: string }[]
  seed: number
  has_nsfw_concepts: boolean[]
  prompt: string
}
type Failure = { status: number; message: string; body: { detail: unknown }; requestId: string }
const failureOf = (call: Promise<unknown>) =>
  call.then(
    () => {
      throw new Error('the call succeeded')
    },
    (error: Failure) => error,
  )

describe('the official client', () => {
  test('subscribes to a request of the queue, and reads its files without a key', async ({ expect }) => {
    const calls = fakeGpu(works)
    const seen: string[] = []
    const { data, requestId } = await clientOf(await newCaller()).subscribe('octet/tiny', {
      input: {
        ...input,
        num_images: 2,
        num_inference_steps: 6,
        image_size: 'landscape_4_3',
        enable_safety_checker: true,
      },
      pollInterval: 20,
      logs: true,
      onQueueUpdate: ({ status }) => seen.push(status),
    })
    const { images, ...rest } = data as Output
    expect(rest).toMatchObject({ seed: 7, has_nsfw_concepts: [false, false], prompt: 'a lighthouse' })
    expect(images[0]).toMatchObject({ width: 1024, height: 768, content_type: 'image/png' })
    const files = await Promise.all(images.map(async ({ url }) => (await fetchWorker(url)).bytes()))
    expect(files).toEqual([createImageBytes(7), createImageBytes(8)])
    expect([requestId, seen.at(-1)]).toEqual([expect.stringMatching(/^job_/), 'COMPLETED'])
    expect(calls[0]!.request).toMatchObject({ model: 'tiny', count: 2, steps: 6 })
  })

  test('calls an app directly, by any owner, with data URIs in sync mode', async ({ expect }) => {
    fakeGpu(works)
    const run = clientOf(await newCaller()).run('fal-ai/tiny', { input: { ...input, sync_mode: true } })
    const { images } = (await run).data as Output
    expect(images[0]!.url).toBe(`data:image/png;base64,${createImageBytes(7).toBase64()}`)
  })

  test('submits, follows and cancels a request', async ({ expect }) => {
    fakeGpu(untilCanceled(2))
    const { queue } = clientOf(await newCaller())
    const submitted = await queue.submit('octet/tiny', { input: { ...input, controlnets: [] } })
    const address = `${ORIGIN}/fal/queue/octet/tiny/requests/${submitted.request_id}`
    expect(submitted).toMatchObject({
      ...{ status: 'IN_QUEUE', queue_position: 0, response_url: address },
      ...{ status_url: `${address}/status`, cancel_url: `${address}/cancel` },
    })
    const requestId = submitted.request_id
    const readStatus = () => queue.status('octet/tiny', { requestId, logs: true })
    await vi.waitFor(async () => {
      const current = await readStatus()
      const messages = 'logs' in current ? current.logs.map(({ message }) => message) : []
      expect([current.status, messages]).toEqual([
        'IN_PROGRESS',
        ['controlnets is [], which has no effect here.', 'image 0: step 2 of 4'],
      ])
    })
    expect(await failureOf(queue.result('octet/tiny', { requestId }))).toMatchObject({
      ...{ status: 400, message: 'The request is still in progress.' },
    })
    await queue.cancel('octet/tiny', { requestId })
    await waitForEnd({ id: requestId })
    expect((await readStatus()).status).toBe('COMPLETED')
    expect(await failureOf(queue.result('octet/tiny', { requestId }))).toMatchObject({
      message: 'The request was canceled.',
    })
  })

  test('streams the steps and the output', async ({ expect }) => {
    fakeGpu(works)
    const stream = await clientOf(await newCaller()).stream('octet/tiny', { input })
    const steps: unknown[] = []
    stream.on('data', (data) => steps.push((data as { step?: number }).step))
    const { images } = (await stream.done()) as Output
    expect(await (await fetchWorker(images[0]!.url)).bytes()).toEqual(createImageBytes(7))
    expect(steps).toEqual([1, 2, 3, 4, undefined])
  })

  test('streams the status of a request', async ({ expect }) => {
    fakeGpu(untilCanceled(2))
    const { queue } = clientOf(await newCaller())
    const { request_id: requestId } = await queue.submit('octet/tiny', { input })
    const statuses: string[] = []
    const stream = await queue.streamStatus('octet/tiny', { requestId, logs: true })
    stream.on('data', ({ status }) => {
      statuses.push(status)
      if (status === 'IN_PROGRESS') void queue.cancel('octet/tiny', { requestId })
    })
    expect(await stream.done()).toMatchObject({ status: 'COMPLETED', request_id: requestId, logs: [] })
    expect([...new Set(statuses)]).toEqual(['IN_QUEUE', 'IN_PROGRESS', 'COMPLETED'])
  })

  test('stops waiting after its own timeout, and cancels the request', async ({ expect }) => {
    fakeGpu(untilCanceled(1))
    const run = clientOf(await newCaller()).subscribe('octet/tiny', {
      ...{ input, timeout: 600, pollInterval: 50 },
      onEnqueue: (id: string) => {
        submitted = id
      },
    })
    let submitted = ''
    await expect(run).rejects.toThrow('Client timed out')
    expect((await waitForEnd({ id: submitted })).state).toBe('canceled')
  })
})

describe('errors', () => {
  test('name the parameter as the client sent it, and charge nothing', async ({ expect }) => {
    const caller = await newCaller()
    const bad = await failureOf(clientOf(caller).run('octet/tiny', { input: { ...input, num_inference_steps: 1000 } }))
    const message = 'num_inference_steps is 1000; it must be an integer from 1 to 200.'
    expect(bad).toMatchObject({ status: 422, body: { message } })
    expect(bad.body.detail).toEqual([{ loc: ['body', 'num_inference_steps'], msg: message, type: 'invalid_request' }])
    expect(bad.requestId).toMatch(/\S/)
    const size = await failureOf(clientOf(caller).run('octet/tiny', { input: { ...input, image_size: 'huge' } }))
    expect(JSON.stringify(size.body)).toContain('one of square_hd, square')
    const unknown = await failureOf(clientOf(caller).queue.submit('fal-ai/flux/dev', { input }))
    expect(JSON.stringify(unknown.body)).toContain('this deployment serves auto, tiny, paired')
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })

  test('of a bad key', async ({ expect }) => {
    const bad = await failureOf(clientOf({ key: 'nonsense' }).run('octet/tiny', { input }))
    expect([bad.status, bad.body]).toMatchObject([401, { detail: expect.stringContaining('API key is invalid') }])
    const missing = await send('POST', '/fal/run/octet/tiny', { headers: {} }, input)
    expect(await missing.json()).toMatchObject({ message: expect.stringContaining('"Authorization: Key oct_…"') })
  })

  test('of a rate limit are retried by the client', async ({ expect }) => {
    fakeGpu(works)
    const caller = await newCaller({ limits: { ...UNLIMITED, concurrent_jobs: 1 } })
    const { queue } = clientOf(caller)
    const [first, second] = await Promise.all(
      [1, 2].map((seed) => queue.submit('octet/tiny', { input: { ...input, seed } })),
    )
    expect(first!.request_id).not.toBe(second!.request_id)
  })

  test('of a job are returned by its result and end its stream', async ({ expect }) => {
    fakeGpu(refuses(422, 'invalid_request'))
    const client = clientOf(await newCaller())
    const failed = await failureOf(client.subscribe('octet/tiny', { input, pollInterval: 20 }))
    expect([failed.status, failed.body.detail]).toEqual([500, expect.stringContaining('could not be made')])
    const stream = await client.stream('octet/tiny', { input })
    await expect(stream.done()).rejects.toThrow()
  })
})

test('a webhook receives the output', async ({ expect }) => {
  const calls = fakeReceiver()
  const caller = await newManager()
  const job = createFinalJob(caller, { dialect: 'fal', webhook: `${RECEIVER}/hook` })
  await announce(env, job)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  expect(JSON.parse(calls[0]!.body)).toMatchObject({
    ...{ request_id: job.id, gateway_request_id: job.id, status: 'OK' },
    payload: { images: [{ url: expect.stringContaining(`/v1/results/${job.id}/0.png?exp=`), width: 64 }], seed: 5 },
  })
})

describe('the AI SDK', () => {
  const createModel = ({ key }: Caller) =>
    createFal({ apiKey: key, baseURL: `${ORIGIN}/fal/run`, fetch }).image('octet/tiny')

  test('generates an image', async ({ expect }) => {
    const calls = fakeGpu(works)
    const { image } = await generateImage({
      ...{ model: createModel(await newCaller()), prompt: 'a lighthouse', seed: 9, size: '256x128' },
    })
    expect(image.uint8Array).toEqual(createImageBytes(9))
    expect(calls[0]!.request).toMatchObject({ width: 256, height: 128 })
  })

  test('throws an error with a message', async ({ expect }) => {
    const failure = generateImage({
      ...{ model: createModel(await newCaller()), prompt: 'a lighthouse', maxRetries: 0, seed: -5 },
    })
    await expect(failure).rejects.toThrow('seed is -5; it must be an integer from -1 to ')
  })
})

test('a path below a request allows only its own methods', async ({ expect }) => {
  const { key } = await newCaller()
  const headers = { headers: { authorization: `Key ${key}` } }
  const path = '/fal/queue/octet/tiny/requests/job_1'
  const replies = [await send('POST', path, headers, {}), await send('POST', `${path}/cancel`, headers, {})]
  expect(replies.map(({ status, headers }) => [status, headers.get('allow')])).toEqual([
    [405, 'GET'],
    [405, 'PUT'],
  ])
})

// Replicate's API through the worker, with the official client and the AI SDK: only the base URL and the key differ.
import { env } from 'cloudflare:workers'
import { createReplicate } from '@ai-sdk/replicate'
import { generateImage } from 'ai'
import Replicate, { type Prediction, type WebhookEventType } from 'replicate'
import { afterEach, describe, test, vi } from 'vitest'
import { UNLIMITED } from '../../../edge/config/limits.ts'
import { announce } from '../../../edge/jobs/announcement.ts'
import { type Caller, fetchWorker, ledgerOf, newCaller, ORIGIN, send } from '../support/client.ts'
import {
  createAccepted,
  createFeed,
  createImage,
  createImageBytes,
  createStarted,
  createSteps,
  encodeLine,
  fakeGpu,
  refuses,
  timings,
  untilCanceled,
  works,
} from '../support/fake-gpu.ts'
import { createFinalJob, waitForEnd } from '../support/jobs.ts'
import { newManager } from '../support/manager.ts'
import { fakeReceiver, RECEIVER, type ReceivedRequest, waitForRequests } from '../support/receiver.ts'

afterEach(() => vi.restoreAllMocks())

const baseUrl = `${ORIGIN}/v1`
const fetch = (url: string | URL | Request, init?: RequestInit) =>
  fetchWorker(url instanceof Request ? url.url : String(url), init)
const clientOf = ({ key }: Pick<Caller, 'key'>) => new Replicate({ auth: key, baseUrl, fetch })
const input = { prompt: 'a lighthouse', seed: 7 }

type Failure = { response: Response; message: string }
const failureOf = (call: Promise<unknown>) =>
  call.then(
    () => {
      throw new Error('the call succeeded')
    },
    (error: Failure) => error,
  )

describe('the official client', () => {
  test('runs a model and reads its files without a key', async ({ expect }) => {
    const calls = fakeGpu(works)
    const caller = await newCaller()
    const parameters = { ...input, num_outputs: 2, num_inference_steps: 6, guidance: 3.5, aspect_ratio: '4:1' }
    const output = (await clientOf(caller).run('octet/tiny', {
      input: { ...parameters, output_format: 'webp', output_quality: 80, go_fast: true },
    })) as ReadableStream[]
    const files = await Promise.all(output.map((file) => new Response(file).bytes()))
    expect(files).toEqual([createImageBytes(7), createImageBytes(8)])
    expect(calls[0]!.request).toMatchObject({
      ...{ model: 'tiny', prompt: 'a lighthouse', seed: 7, count: 2, steps: 6, guidance_scale: 3.5 },
      ...{ width: 512, height: 128, output_format: 'webp', output_quality: 80 },
    })
  })

  test('runs a version, which names a model or is another provider’s', async ({ expect }) => {
    fakeGpu(works)
    const client = clientOf(await newCaller())
    const versions = { named: 'tiny', foreign: 'a'.repeat(64) }
    const named = await client.predictions.create({ version: versions.named, input, wait: true })
    const foreign = await client.predictions.create({ version: versions.foreign, input, wait: true })
    expect([named.status, foreign.status]).toEqual(['succeeded', 'succeeded'])
    expect([named.logs, foreign.logs]).toEqual(['', expect.stringContaining('Warning: version is "aaa')])
  })

  test('creates, polls, lists and cancels a prediction', async ({ expect }) => {
    fakeGpu(untilCanceled(2))
    const client = clientOf(await newCaller())
    const created = await client.predictions.create({ model: 'octet/tiny', input })
    const get = `${ORIGIN}/v1/predictions/${created.id}`
    expect(created).toMatchObject({
      ...{ status: 'starting', model: 'octet/tiny', version: 'tiny', output: null, error: null, source: 'api' },
      urls: { get, cancel: `${get}/cancel`, stream: expect.stringContaining(`${get}/stream?exp=`) },
      input: { prompt: 'a lighthouse', seed: 7, num_outputs: 1 },
      completed_at: null,
    })
    await vi.waitFor(async () => {
      const { status, logs } = await client.predictions.get(created.id)
      expect([status, logs]).toEqual(['processing', expect.stringContaining(' 50%|█████     | 2/4')])
    })
    const { results } = await client.predictions.list()
    expect(results.map(({ id, status }) => [id, status])).toEqual([[created.id, 'processing']])
    await client.predictions.cancel(created.id)
    await waitForEnd(created)
    expect((await client.predictions.get(created.id)).status).toBe('canceled')
  })

  test('polls a prediction that outlasts its wait', async ({ expect }) => {
    fakeGpu(untilCanceled(1))
    const client = clientOf(await newCaller())
    const seen: string[] = []
    const abort = new AbortController()
    const run = client.run(
      'octet/tiny',
      { input, wait: { mode: 'block', timeout: 1, interval: 20 }, signal: abort.signal },
      ({ status }: Prediction) => {
        seen.push(status)
        if (status === 'processing') abort.abort()
      },
    )
    await run
    expect(seen[0]).toBe('starting')
    expect(seen).toContain('processing')
  })

  test('streams progress and files from a signed link', async ({ expect }) => {
    fakeGpu(works)
    const events = await Array.fromAsync(clientOf(await newCaller()).stream('octet/tiny', { input }))
    expect(events.map(({ event }) => event)).toEqual([...Array(4).fill('logs'), 'output', 'done'])
    expect(events[3]!.data).toBe('100%|██████████| 4/4 [image 0]')
    const file = await fetchWorker(events[4]!.data)
    expect(await file.bytes()).toEqual(createImageBytes(7))
    expect(new Set(events.map(({ id }) => id)).size).toBe(5)
  })

  test('lists predictions page by page, and accepts models of any owner', async ({ expect }) => {
    fakeGpu(works)
    const client = clientOf(await newCaller())
    const { id } = await client.predictions.create({ model: 'octet/tiny', input, wait: true })
    const pages = await Array.fromAsync(client.paginate(client.predictions.list))
    expect(pages.flat().map((each) => [each.id, each.output])).toEqual([[id, [expect.stringContaining(id)]]])
    const { owner, name, latest_version } = await client.models.get('octet', 'tiny')
    expect([owner, name, latest_version?.id]).toEqual(['octet', 'tiny', 'tiny'])
    expect((await client.models.versions.get('octet', 'tiny', 'tiny')).id).toBe('tiny')
  })
})

describe('errors', () => {
  test('name the parameter as the client sent it, and charge nothing', async ({ expect }) => {
    const caller = await newCaller()
    const client = clientOf(caller)
    const create = (input: object) => failureOf(client.predictions.create({ model: 'octet/tiny', input }))
    const bad = await create({ ...input, num_inference_steps: 1000 })
    expect(bad.response.status).toBe(400)
    expect(bad.message).toContain('num_inference_steps is 1000; it must be an integer from 1 to 200.')
    expect((await create({ ...input, image: 'https://a.test/b.png' })).message).toContain('it must name a public host')
    expect((await create({ ...input, control_image: 'https://a.test/b.png' })).message).toContain(
      'control_image is given without controls',
    )
    expect((await create({ ...input, aspect_ratio: '20:1' })).message).toContain('a ratio such as 16:9')
    expect((await create({ ...input, prompt: '' })).message).toContain('prompt is')
    const unknown = await failureOf(client.predictions.create({ model: 'octet/other', input }))
    expect(unknown.message).toContain('this deployment serves auto, tiny, paired')
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })

  test('have title, detail and status, and no member that is an object', async ({ expect }) => {
    const response = await send('POST', '/v1/predictions', { headers: {} }, { input })
    const body = (await response.json()) as Record<string, unknown>
    expect([response.status, response.headers.get('content-type')]).toEqual([401, 'application/json'])
    expect(body).toMatchObject({ status: 401, title: 'An API key is required' })
    expect(body.detail).toBe(
      'The API key is missing. Send it as "Authorization: Bearer oct_…" or "Authorization: Token oct_…".',
    )
    const token = { authorization: `Token ${(await newCaller()).key}` }
    expect((await send('GET', '/v1/predictions', { headers: token })).status).toBe(200)
  })

  test('of a rate limit are retried by the client', async ({ expect }) => {
    const { behavior, send, close } = createFeed()
    let finish = async () => {}
    fakeGpu((seen) => {
      send(createAccepted(seen), createStarted(seen))
      finish = async () => {
        send(...(await createImage(seen, 0)), encodeLine({ type: 'succeeded', images: 1, timings }))
        close()
        await waitForEnd({ id: seen.job })
      }
      return behavior(seen)
    }, works)
    const caller = await newCaller({ limits: { ...UNLIMITED, concurrent_jobs: 1 } })
    const statuses: number[] = []
    const countRequests = async (url: string | URL | Request, init?: RequestInit) => {
      const response = await fetch(url, init)
      statuses.push(response.status)
      // The client retries at once.
      if (response.status === 429) await finish()
      return response
    }
    const client = new Replicate({ auth: caller.key, baseUrl, fetch: countRequests })
    await client.predictions.create({ input, model: 'octet/tiny' })
    const second = await client.predictions.create({ input: { ...input, seed: 8 }, model: 'octet/tiny', wait: true })
    expect([statuses, second.status]).toEqual([[201, 429, 201], 'succeeded'])
  })

  test('of a job end the prediction and its stream', async ({ expect }) => {
    fakeGpu(refuses(422, 'invalid_request'))
    const client = clientOf(await newCaller())
    const failed = await client.predictions.create({ model: 'octet/tiny', input, wait: true })
    expect(failed).toMatchObject({
      status: 'failed',
      output: null,
      error: expect.stringContaining('could not be made'),
    })
    await expect(Array.fromAsync(client.stream('octet/tiny', { input }))).rejects.toThrow('could not be made')
  })

  test('end the stream of a forged link and of a link whose key is revoked', async ({ expect }) => {
    fakeGpu(works)
    const caller = await newCaller()
    const { urls } = await clientOf(caller).predictions.create({ model: 'octet/tiny', input, wait: true })
    const stream = (urls as { stream: string }).stream
    expect((await fetchWorker(`${stream}0`)).status).toBe(403)
    expect((await fetchWorker(stream.split('?')[0]!)).status).toBe(401)
    const open = await fetchWorker(stream)
    expect([open.status, open.headers.get('content-type')]).toEqual([200, 'text/event-stream'])
    await open.text()
    const other = await newCaller()
    const { urls: others } = await clientOf(other).predictions.create({ model: 'octet/tiny', input })
    await env.ACCOUNT.getByName(other.account).revokeKey(other.keyId)
    expect((await fetchWorker((others as { stream: string }).stream)).status).toBe(403)
  })
})

test('a webhook receives the completed prediction', async ({ expect }) => {
  const calls = fakeReceiver()
  const caller = await newManager()
  const webhook = `${RECEIVER}/hook`
  const job = createFinalJob(caller, { dialect: 'replicate', webhook })
  await announce(env, job)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  expect(JSON.parse(calls[0]!.body)).toMatchObject({
    ...{ id: job.id, status: 'succeeded', error: null },
    output: [expect.stringContaining(`/v1/results/${job.id}/0.png?exp=`)],
  })
})

describe('webhook_events_filter', () => {
  type Prediction = { id: string; status: string; logs: string; output: string[] | null }
  const webhook = `${RECEIVER}/hook`

  /** The webhooks of a prediction that runs two steps, waits for `isSeen` and then succeeds. */
  async function runWithWebhooks(
    filter: WebhookEventType[],
    isSeen: (got: ReceivedRequest[]) => boolean,
    status = 204,
  ) {
    const { behavior, send, close } = createFeed()
    fakeGpu((seen) => {
      send(createAccepted(seen), createStarted(seen), ...createSteps(2, 4))
      void (async () => {
        while (!isSeen(calls)) {
          send(encodeLine({ type: 'heartbeat' }))
          await new Promise((resolve) => setTimeout(resolve, 20))
        }
        send(...(await createImage(seen, 0)), encodeLine({ type: 'succeeded', images: 1, timings }))
        close()
      })()
      return behavior(seen)
    })
    const calls = fakeReceiver(() => status)
    const client = clientOf(await newManager())
    const fields = { model: 'octet/tiny', input, webhook, webhook_events_filter: filter }
    const { id } = await client.predictions.create(fields)
    await waitForEnd({ id })
    return { id, calls, bodies: () => calls.map(({ body }) => JSON.parse(body) as Prediction) }
  }

  test('selects events of the start, the steps and the end', async ({ expect }) => {
    const { id, calls, bodies } = await runWithWebhooks(['start', 'logs', 'completed'], ({ length }) => length > 0)
    await waitForRequests(calls, 2)
    const all = bodies()
    expect(all.every((each) => each.id === id)).toBe(true)
    expect([all[0]!.status, all[0]!.output]).toEqual(['processing', null])
    expect([all.at(-1)!.status, all.at(-1)!.output]).toEqual(['succeeded', [expect.stringContaining(id)]])
    const ids = calls.map(({ headers }) => headers['webhook-id'])
    expect(new Set(ids).size).toBe(calls.length)
    expect(calls[0]!.headers['webhook-signature']).toMatch(/^v1,/)
  })

  test('sends the steps with a progress bar', async ({ expect }) => {
    const { bodies } = await runWithWebhooks(['logs'], (got) => got.some(({ body }) => body.includes('50%')))
    expect(bodies().map(({ status }) => status)).not.toContain('succeeded')
    expect(bodies().at(-1)!.logs).toContain(' 50%|█████     | 2/4')
  })

  test('sends the output when the job succeeds', async ({ expect }) => {
    const { calls, bodies } = await runWithWebhooks(['output'], () => true)
    await waitForRequests(calls, 1)
    expect(bodies().map(({ status, output }) => [status, output?.length])).toEqual([['succeeded', 1]])
  })

  test('stops after the first failure of the receiver, and retries only the end', async ({ expect }) => {
    const { calls, bodies } = await runWithWebhooks(['start', 'logs', 'completed'], ({ length }) => length > 0, 500)
    await waitForRequests(calls, 3)
    expect(bodies().filter(({ status }) => status === 'processing')).toHaveLength(1)
  })
})

describe('the AI SDK', () => {
  const createModel = ({ key }: Caller) =>
    createReplicate({ apiToken: key, baseURL: baseUrl, fetch }).image('octet/tiny')

  test('generates an image', async ({ expect }) => {
    const calls = fakeGpu(works)
    const { image } = await generateImage({
      model: createModel(await newCaller()),
      ...{ prompt: 'a lighthouse', seed: 9, size: '256x128' },
    })
    expect(image.uint8Array).toEqual(createImageBytes(9))
    expect(calls[0]!.request).toMatchObject({ width: 256, height: 128 })
  })

  test('throws an error with a message', async ({ expect }) => {
    const replicate = { num_inference_steps: 0 }
    const failure = generateImage({
      ...{ model: createModel(await newCaller()), prompt: 'a lighthouse' },
      ...{ maxRetries: 0, providerOptions: { replicate } },
    })
    await expect(failure).rejects.toThrow('num_inference_steps is 0; it must be an integer from 1 to 200.')
  })
})

// The official clients against the worker, with its address and a key as the only settings.
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { DallEAPIWrapper } from '@langchain/openai'
import { generateImage } from 'ai'
import OpenAI from 'openai'
import { afterEach, describe, test, vi } from 'vitest'
import { AccountDO } from '../../../edge/accounts/account.ts'
import { UNLIMITED } from '../../../edge/config/limits.ts'
import { type Caller, fetchWorker, ledgerOf, newCaller, ORIGIN } from '../support/client.ts'
import {
  createAccepted,
  createImage,
  createImageBytes,
  createStarted,
  encodeLine,
  fakeGpu,
  holdUntil,
  refuses,
  stream,
  timings,
  untilCanceled,
  works,
} from '../support/fake-gpu.ts'
import { waitForEnd } from '../support/jobs.ts'
import { fetchShipped } from '../support/shipped.ts'

afterEach(() => vi.restoreAllMocks())

const baseURL = `${ORIGIN}/v1`
const prompt = 'a red heart'
const fetchUrl: typeof fetch = (url, init) => fetchWorker(String(url), init)
const clientOf = ({ key }: Pick<Caller, 'key'>, options: { maxRetries?: number; timeout?: number } = {}) =>
  new OpenAI({ apiKey: key, baseURL, fetch: fetchUrl, maxRetries: 0, ...options })
/** The error of a call; null if it succeeds. */
const errorOf = (call: Promise<unknown>) => call.then(() => null).catch((error: unknown) => error)

describe('openai', () => {
  test('generates an image with base64, a link and usage', async ({ expect }) => {
    fakeGpu(works)
    const caller = await newCaller()
    const { data, usage } = await clientOf(caller).images.generate({ prompt, size: '256x256' })
    expect(Uint8Array.fromBase64(data![0]!.b64_json!)).toHaveLength(5000)
    expect((await fetchWorker(data![0]!.url!)).status).toBe(200)
    expect(usage).toMatchObject({ input_tokens: 333, output_tokens: 256, total_tokens: 589 })
  })

  test('reads a model, and the names of the models that may be requested', async ({ expect }) => {
    const client = clientOf(await newCaller())
    expect(await client.models.retrieve('tiny')).toMatchObject({ id: 'tiny', object: 'model' })
    const missing = await errorOf(client.models.retrieve('gpt-5'))
    expect(missing).toBeInstanceOf(OpenAI.NotFoundError)
    expect(missing).toMatchObject({ param: 'model', message: expect.stringContaining('serves auto, tiny, paired') })
  })

  test('streams previews and the image', async ({ expect }) => {
    const shape = { width: 32, height: 32, content_type: 'image/jpeg' }
    const preview = (step: number) => [
      encodeLine({ type: 'preview', image: 0, step, ...shape, bytes: 3 }),
      Uint8Array.of(step, 2, 3),
    ]
    const calls = fakeGpu(async (seen) =>
      stream([
        ...[createAccepted(seen), createStarted(seen), ...preview(1), ...preview(2), ...(await createImage(seen, 0))],
        encodeLine({ type: 'succeeded', images: 1, timings }),
      ]),
    )
    const events = []
    const body = { prompt, seed: 7, stream: true, partial_images: 2 } as const
    for await (const event of await clientOf(await newCaller()).images.generate(body)) events.push(event)
    expect(events.map(({ type }) => type)).toEqual([
      ...['image_generation.partial_image', 'image_generation.partial_image'],
      'image_generation.completed',
    ])
    expect(events[1]).toMatchObject({ partial_image_index: 1, output_format: 'jpeg', b64_json: 'AgID' })
    expect(Uint8Array.fromBase64(events[2]!.b64_json)).toEqual(createImageBytes(7))
    expect(events[2]).toMatchObject({ usage: { total_tokens: 589 }, output_format: 'png', size: '256x256' })
    expect(calls[0]!.request.preview_steps).toBe(2)
  })

  test('throws the failure of a stream', async ({ expect }) => {
    fakeGpu(refuses(422, 'invalid_request'))
    const caller = await newCaller()
    const events = await clientOf(caller).images.generate({ prompt, stream: true })
    const error = await errorOf(
      (async () => {
        for await (const _ of events);
      })(),
    )
    expect(error).toBeInstanceOf(OpenAI.APIError)
    expect(error).toMatchObject({ code: 'generation_failed', message: expect.stringContaining('Nothing was charged') })
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })

  test('cancels the job of a stream', async ({ expect }) => {
    const calls = fakeGpu(untilCanceled(2))
    const body = { prompt, stream: true, on_disconnect: 'cancel' } as const
    const events = await clientOf(await newCaller()).images.generate(body)
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    events.controller.abort()
    expect(await waitForEnd({ id: calls[0]!.job })).toMatchObject({ state: 'canceled', cancelRequested: true })
  })

  test('retries after a timeout, and the retry joins the running job', async ({ expect }) => {
    const caller = await newCaller()
    const admit = vi.spyOn(AccountDO.prototype, 'admit')
    const calls = fakeGpu(
      holdUntil(() => admit.mock.settledResults.filter(({ type }) => type === 'fulfilled').length === 2),
    )
    // Unlike a connection, this fetch does not end with its signal.
    const fetchUntilAborted: typeof fetch = (url, init) => {
      const aborted = new Promise<never>((_, reject) => {
        init!.signal!.addEventListener('abort', () => reject(init!.signal!.reason))
      })
      return Promise.race([fetchWorker(String(url), { ...init, signal: null }), aborted])
    }
    const client = new OpenAI({ apiKey: caller.key, baseURL, fetch: fetchUntilAborted, maxRetries: 1, timeout: 1500 })
    expect((await client.images.generate({ prompt })).data).toHaveLength(1)
    expect(new Set(calls.map(({ job }) => job)).size).toBe(1)
    const { price } = await waitForEnd({ id: calls[0]!.job })
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: price })
  })

  test('retries after a failure of the service, and is charged once', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(refuses(422, 'invalid_request'), works)
    const { data } = await clientOf(caller, { maxRetries: 1 }).images.generate({ prompt })
    expect([data!.length, calls.length]).toEqual([1, 2])
    const { price } = await waitForEnd({ id: calls[1]!.job })
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: price })
  })

  test('throws its own error classes for a rate limit, a bad key and a bad parameter', async ({ expect }) => {
    fakeGpu(works)
    const limited = clientOf(await newCaller({ limits: { ...UNLIMITED, requests_per_minute: 1 } }))
    await limited.images.generate({ prompt })
    expect(await errorOf(limited.images.generate({ prompt: 'a dog' }))).toBeInstanceOf(OpenAI.RateLimitError)
    const stranger = clientOf({ key: 'sk-nonsense' })
    expect(await errorOf(stranger.images.generate({ prompt }))).toBeInstanceOf(OpenAI.AuthenticationError)
    const bad = await errorOf(clientOf(await newCaller()).images.generate({ prompt, background: 'transparent' }))
    expect(bad).toBeInstanceOf(OpenAI.BadRequestError)
    expect(bad).toMatchObject({ param: 'background', message: expect.stringContaining('must be auto or opaque') })
  })

  test('edits an image, with and without a mask, and receives a refusal', async ({ expect }) => {
    const calls = fakeGpu(works)
    const client = clientOf(await newCaller())
    const png = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 1])
    const image = new File([png], 'image.png', { type: 'image/png' })
    const edited = await client.images.edit({ image, prompt, n: 2, size: '1024x1024' })
    expect(edited.data).toHaveLength(2)
    expect(calls[0]!.request).toMatchObject({ count: 2, strength: 0.6, repaint: 'transparent' })
    await client.images.edit({ image: [image, image], mask: image, prompt })
    expect(calls[1]!.request).toMatchObject({ strength: 1, repaint: 'transparent' })
    expect(calls[1]!.files).toEqual([png, png])
    await client.images.createVariation({ image })
    expect(calls[2]!.request).toMatchObject({ prompt: '', strength: 0.6 })
    const refused = await errorOf(client.images.edit({ image: new File(['text'], 'image.png'), prompt }))
    expect(refused).toMatchObject({ status: 400, param: 'image' })
    expect((refused as Error).message).toContain('allowed: PNG, JPEG, WebP, GIF, AVIF')
  })
})

describe('the AI SDK', () => {
  const createOptions = ({ key }: Pick<Caller, 'key'>, from: typeof fetch = fetchUrl) => ({
    apiKey: key,
    baseURL,
    fetch: from,
  })
  const call = { prompt, maxRetries: 0 }

  test('generates with @ai-sdk/openai under the names of OpenAI’s models', async ({ expect }) => {
    fakeGpu(works)
    const provider = createOpenAI(createOptions(await newCaller(), fetchShipped))
    for (const name of ['dall-e-3', 'gpt-image-1']) {
      const { image: made } = await generateImage({ model: provider.image(name), size: '1024x1024', ...call })
      expect(made.uint8Array).toHaveLength(5000)
    }
  })

  test('generates with @ai-sdk/openai-compatible, which sends no response_format', async ({ expect }) => {
    fakeGpu(works)
    const provider = createOpenAICompatible({ name: 'octet', ...createOptions(await newCaller()) })
    const { images } = await generateImage({ model: provider.imageModel('tiny'), n: 2, size: '1024x1024', ...call })
    expect(images.map(({ uint8Array }) => uint8Array.length)).toEqual([5000, 5000])
  })

  test('throws errors for a bad key and a bad parameter, with their messages', async ({ expect }) => {
    const caller = await newCaller()
    const stranger = createOpenAI(createOptions({ key: 'sk-nonsense' })).image('tiny')
    expect(await errorOf(generateImage({ model: stranger, ...call }))).toMatchObject({ statusCode: 401 })
    const provider = createOpenAICompatible({ name: 'octet', ...createOptions(caller) })
    const providerOptions = { octet: { steps: 0 } }
    const bad = await errorOf(generateImage({ model: provider.imageModel('tiny'), providerOptions, ...call }))
    expect(bad).toMatchObject({ statusCode: 400, message: expect.stringContaining('steps is 0; it must be') })
  })
})

test('@langchain/openai returns the link of an image', async ({ expect }) => {
  fakeGpu(works)
  const { key } = await newCaller()
  const tool = new DallEAPIWrapper({ apiKey: key, baseUrl: baseURL })
  // The wrapper has no setting for `fetch`.
  Object.assign((tool as unknown as { client: object }).client, { fetch: fetchShipped })
  const reply = await tool.invoke(prompt)
  expect((await fetchWorker(String(reply))).status).toBe(200)
})

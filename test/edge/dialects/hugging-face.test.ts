// Hugging Face's text-to-image task, with the official client: only the URL and the key differ.
import { InferenceClient } from '@huggingface/inference'
import { afterEach, test, vi } from 'vitest'
import { fetchWorker, newCaller, ORIGIN, send } from '../support/client.ts'
import { createImageBytes, fakeGpu, unreachable, works } from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const fetch = (url: string | URL | Request, init?: RequestInit) =>
  fetchWorker(url instanceof Request ? url.url : String(url), init)
const clientOf = (key: string, model = 'tiny') =>
  new InferenceClient(key, { fetch, endpointUrl: `${ORIGIN}/hf/${model}` })
const failureOf = (call: Promise<unknown>) =>
  call.then(
    () => new Error('the call succeeded'),
    (error: Error) => error,
  )

test('the official client generates an image', async ({ expect }) => {
  const calls = fakeGpu(works)
  const { key } = await newCaller()
  const image = await clientOf(key, 'stabilityai/tiny').textToImage(
    {
      inputs: 'a lighthouse',
      parameters: {
        seed: 7,
        num_inference_steps: 6,
        guidance_scale: 3,
        width: 512,
        height: 256,
        negative_prompt: 'fog',
      },
    },
    { outputType: 'blob' },
  )
  expect(new Uint8Array(await image.arrayBuffer())).toEqual(createImageBytes(7))
  expect(calls[0]!.request).toMatchObject({
    ...{ model: 'tiny', prompt: 'a lighthouse', negative_prompt: 'fog', seed: 7, steps: 6, guidance_scale: 3 },
    ...{ width: 512, height: 256, count: 1 },
  })
})

test('a parameter without an effect is named in a header', async ({ expect }) => {
  fakeGpu(works)
  const body = { inputs: 'a lighthouse', parameters: { scheduler: 'DDIM' } }
  const response = await send('POST', '/hf', await newCaller(), body, { accept: 'image/png' })
  expect([response.status, response.headers.get('content-type')]).toEqual([200, 'image/png'])
  expect(response.headers.get('x-octet-warning')).toBe('scheduler is "DDIM", which has no effect here.')
})

test('errors are plain text, and never have status 503, after which the client retries endlessly', async ({
  expect,
}) => {
  const { key, headers } = await newCaller()
  const bad = { inputs: 'a lighthouse', parameters: { num_inference_steps: 1000 } }
  const message = 'num_inference_steps is 1000; it must be an integer from 1 to 200.'
  expect((await failureOf(clientOf(key).textToImage(bad))).message).toContain(message)
  const response = await send('POST', '/hf/tiny', { headers }, bad)
  expect([response.headers.get('x-error-message'), await response.json()]).toMatchObject([message, { error: message }])
  expect((await failureOf(clientOf('hf_nonsense').textToImage({ inputs: 'a cat' }))).message).toContain('invalid')
  fakeGpu(unreachable)
  const down = await send('POST', '/hf/tiny', { headers }, { inputs: 'a lighthouse' })
  expect([down.status, await down.json()]).toMatchObject([504, { error: expect.any(String) }])
})

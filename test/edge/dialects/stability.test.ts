// Stability's API through the worker, as its HTTP examples call it: multipart, with bytes or JSON as the reply.
import { afterEach, describe, test, vi } from 'vitest'
import { LIMITS } from '#contract'
import { type Caller, fetchWorker, ledgerOf, newCaller } from '../support/client.ts'
import { createImageBytes, fakeGpu, works } from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const PATH = '/v2beta/stable-image/generate/sd3'

/** Sends a form. An empty file, as Python's `files={"none": ""}` sends it, is always part of it. */
function post(caller: Pick<Caller, 'headers'>, fields: Record<string, string | Blob>, accept?: string) {
  const body = new FormData()
  for (const [name, value] of Object.entries({ ...fields, none: new Blob([]) })) body.append(name, value)
  return fetchWorker(PATH, { method: 'POST', headers: { ...caller.headers, ...(accept && { accept }) }, body })
}

type StabilityError = { id: string; name: string; errors: string[] }
const errorOf = async (response: Response) => (await response.json()) as StabilityError

describe('an image', () => {
  test('arrives as bytes, with the seed in a header', async ({ expect }) => {
    const calls = fakeGpu(works)
    const caller = await newCaller()
    const fields = { prompt: 'a lighthouse', negative_prompt: 'fog', aspect_ratio: '16:9', seed: '7', cfg_scale: '4.5' }
    const response = await post(caller, { ...fields, output_format: 'jpeg', mode: 'text-to-image' }, 'image/*')
    expect(response.status).toBe(200)
    expect(new Uint8Array(await response.arrayBuffer())).toEqual(createImageBytes(7))
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-type': 'image/jpeg',
      'content-length': '5000',
      'finish-reason': 'SUCCESS',
      seed: '7',
      'x-octet-job': expect.stringMatching(/^job_/),
      'x-request-id': expect.any(String),
      'access-control-expose-headers': expect.stringContaining('finish-reason,seed'),
    })
    expect(calls[0]!.request).toMatchObject({
      ...{ prompt: 'a lighthouse', negative_prompt: 'fog', width: 1344, height: 768, seed: 7, guidance_scale: 4.5 },
      ...{ output_format: 'jpeg', count: 1 },
    })
  })

  test('arrives as JSON with base64', async ({ expect }) => {
    fakeGpu(works)
    const response = await post(await newCaller(), { prompt: 'a lighthouse', seed: '9' }, 'application/json')
    expect(response.status).toBe(200)
    expect(response.headers.get('content-type')).toBe('application/json; type=image/png')
    const { image, ...rest } = (await response.json()) as { image: string }
    expect(Uint8Array.fromBase64(image)).toEqual(createImageBytes(9))
    expect(rest).toEqual({ finish_reason: 'SUCCESS', seed: 9 })
  })

  test('has a random seed for seed 0, and the default size without an aspect ratio', async ({ expect }) => {
    const calls = fakeGpu(works)
    const caller = await newCaller()
    const replies = [await post(caller, { prompt: 'a cat', seed: '0' }), await post(caller, { prompt: 'a cat' })]
    const seeds = replies.map(({ headers }) => headers.get('seed'))
    expect(new Set([...seeds, '0']).size).toBe(3)
    expect(calls[0]!.request).toMatchObject({ width: 256, height: 256 })
  })

  test('has a header that names the parameters without an effect', async ({ expect }) => {
    fakeGpu(works)
    const response = await post(await newCaller(), { prompt: 'a cat', style_preset: 'anime' })
    expect(response.headers.get('x-octet-warning')).toBe(
      'style_preset had no effect; describe the style in the prompt.',
    )
  })
})

describe('a request is refused', () => {
  test('with every bad parameter named, and nothing charged', async ({ expect }) => {
    const calls = fakeGpu(works)
    const caller = await newCaller()
    const fields = { aspect_ratio: '1:2', seed: 'x', cfg_scale: '11', output_format: 'gif', strength: '2' }
    const response = await post(caller, fields)
    expect([response.status, response.headers.get('content-type')]).toEqual([400, 'application/json'])
    expect(await errorOf(response)).toEqual({
      id: response.headers.get('x-request-id'),
      name: 'bad_request',
      errors: [
        'prompt is missing; it must be a text of 1 to 10000 characters.',
        'strength is "2"; it must be a number from 0 to 1.',
        'aspect_ratio is "1:2"; it must be one of 21:9, 16:9, 3:2, 5:4, 1:1, 4:5, 2:3, 9:16, 9:21.',
        'seed is "x"; it must be a whole number from 0 to 4294967294.',
        'output_format is "gif"; it must be one of png, jpeg, webp.',
        'cfg_scale is "11"; it must be a number from 1 to 10.',
      ],
    })
    expect(calls).toEqual([])
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })

  test('for an unsupported Accept header, or a body of another type', async ({ expect }) => {
    const caller = await newCaller()
    const html = await errorOf(await post(caller, { prompt: 'a cat' }, 'text/html'))
    expect(html.errors).toEqual(['accept is "text/html"; it must be image/* or application/json.'])
    const init = { method: 'POST', body: '{"prompt":"a cat"}' }
    const requestType = (type: string) =>
      fetchWorker(PATH, { ...init, headers: { ...caller.headers, 'content-type': type } })
    const [json, broken] = [await requestType('application/json'), await requestType('multipart/form-data; boundary=x')]
    expect([json.status, (await errorOf(json)).name]).toEqual([415, 'unsupported_media_type'])
    expect([broken.status, (await errorOf(broken)).errors[0]]).toEqual([
      400,
      expect.stringMatching(/^The body is not a form: /),
    ])
  })

  test('for a model that the deployment does not serve', async ({ expect }) => {
    const response = await post(await newCaller(), { prompt: 'a cat', model: 'sd3.5-large' })
    const { name, errors } = await errorOf(response)
    expect([response.status, name]).toEqual([422, 'not_offered'])
    expect(errors).toEqual(['model is "sd3.5-large"; this deployment serves auto, tiny, paired.'])
  })

  test('without a key, and with a forged one', async ({ expect }) => {
    const calls = fakeGpu(works)
    const { key } = await newCaller()
    const forged = { authorization: `Bearer ${key.slice(0, -1)}${key.endsWith('0') ? '1' : '0'}` }
    for (const headers of [{}, forged]) {
      const response = await post({ headers }, { prompt: 'a cat' })
      const { name, errors } = await errorOf(response)
      expect([response.status, name, errors.length]).toEqual([401, 'unauthorized', 1])
    }
    expect(calls).toEqual([])
  })

  test('when it is too large', async ({ expect }) => {
    const response = await post(await newCaller(), { prompt: 'x'.repeat(LIMITS.requestBytes) })
    const { name, errors } = await errorOf(response)
    expect([response.status, name]).toEqual([413, 'payload_too_large'])
    expect(errors).toEqual([`The body exceeds the limit of ${LIMITS.requestBytes} bytes.`])
  })
})

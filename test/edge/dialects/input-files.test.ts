import { describe, expect, test } from 'vitest'
import { type Caller, fetchWorker, newCaller } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'

const PNG = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 1])
const BASE64 = PNG.toBase64()
const DATA_URL = `data:image/png;base64,${BASE64}`
const prompt = 'a lighthouse'

const createJsonCall = (path: string, body: object) => (caller: Caller) =>
  fetchWorker(path, {
    method: 'POST',
    headers: { ...caller.headers, 'content-type': 'application/json', prefer: 'wait' },
    body: JSON.stringify(body),
  })

const createFormCall = (path: string, fields: Record<string, string>) => (caller: Caller) => {
  const body = new FormData()
  for (const [name, value] of Object.entries(fields)) body.set(name, value)
  body.set('image', new File([PNG], 'image.png', { type: 'image/png' }))
  return fetchWorker(path, { method: 'POST', headers: { ...caller.headers, accept: 'image/*' }, body })
}

const REPLICATE = '/v1/models/octet/tiny/predictions'
const IMG2IMG = '/sdapi/v1/img2img'
const SD3 = '/v2beta/stable-image/generate/sd3'

const cases: [name: string, request: (caller: Caller) => Promise<Response>, expected: object][] = [
  [
    'Replicate',
    createJsonCall(REPLICATE, { input: { prompt, image: DATA_URL, prompt_strength: 0.4 } }),
    { strength: 0.4 },
  ],
  [
    'Replicate without a strength',
    createJsonCall(REPLICATE, { input: { prompt, image: DATA_URL } }),
    { strength: 0.85 },
  ],
  [
    'Replicate with a mask',
    createJsonCall(REPLICATE, { input: { prompt, image: DATA_URL, mask: DATA_URL } }),
    { strength: 0.85 },
  ],
  ['fal', createJsonCall('/fal/run/octet/tiny', { prompt, image_url: DATA_URL, strength: 0.5 }), { strength: 0.5 }],
  [
    'fal without a strength',
    createJsonCall('/fal/run/octet/tiny', { prompt, image_urls: [DATA_URL] }),
    { strength: 0.95 },
  ],
  ['Stability', createFormCall(SD3, { prompt, mode: 'image-to-image', strength: '0.3' }), { strength: 0.3 }],
  [
    'Hugging Face',
    createJsonCall('/hf/tiny', {
      inputs: BASE64,
      parameters: { prompt, strength: 0.7, target_size: { width: 64, height: 64 } },
    }),
    { prompt, strength: 0.7 },
  ],
  ['A1111', createJsonCall(IMG2IMG, { prompt, init_images: [DATA_URL] }), { strength: 0.75, image_fit: 'stretch' }],
  [
    'A1111 with a mask',
    createJsonCall(IMG2IMG, {
      ...{ init_images: [BASE64], mask: BASE64, denoising_strength: 0 },
      resize_mode: 1,
      inpainting_mask_invert: 1,
    }),
    { prompt: '', strength: 0.01, image_fit: 'crop', repaint: 'black', mask_feather: 4 },
  ],
  [
    'OpenAI as JSON',
    createJsonCall('/v1/images/edits', { prompt, images: [{ image_url: DATA_URL }] }),
    { repaint: 'transparent' },
  ],
]

describe('an input image', () => {
  test.for(cases)('of %s', async ([, request, expected]) => {
    const calls = fakeGpu(works)
    const response = await request(await newCaller())
    expect(response.status).toBeLessThan(300)
    expect(calls[0]!.request).toMatchObject(expected)
    expect(calls[0]!.files.every((file) => file.join() === PNG.join())).toBe(true)
    expect(calls[0]!.files.length).toBeGreaterThan(0)
    await response.arrayBuffer()
  })

  test('of A1111 is returned only on request', async ({ expect }) => {
    fakeGpu(works)
    const caller = await newCaller()
    const body = { prompt, init_images: [BASE64], mask: BASE64 }
    const parametersOf = async (fields: object) =>
      ((await (await createJsonCall(IMG2IMG, fields)(caller)).json()) as { parameters: object }).parameters
    expect(await parametersOf(body)).toEqual({ prompt, init_images: null, mask: null })
    const whole = { ...body, include_init_images: true }
    expect(await parametersOf(whole)).toEqual(whole)
  })

  test.for([
    [
      createFormCall(SD3, { prompt, mode: 'image-to-image' }),
      'strength is missing; mode "image-to-image" takes image and strength.',
    ],
    [createFormCall(SD3, { prompt }), 'image is given without mode; mode "image-to-image" takes image and strength.'],
    [createJsonCall(IMG2IMG, { prompt }), 'init_images is missing; it must be a list with an image as base64.'],
    [createJsonCall('/v1/images/edits', { prompt }), 'image is missing; it must be an image file.'],
    [createJsonCall('/fal/run/octet/tiny', { prompt, image_url: 5 }), 'image_url is 5; it must be an image as base64'],
    [
      createJsonCall('/fal/run/octet/tiny', { prompt, image_url: DATA_URL, strength: 2 }),
      'strength is 2; it must be a number from 0 to 1',
    ],
  ] as const)('is refused: %s', async ([request, message]) => {
    const calls = fakeGpu(works)
    const response = await request(await newCaller())
    expect([400, 422]).toContain(response.status)
    expect((await response.text()).replaceAll('\\"', '"')).toContain(message)
    expect(calls).toHaveLength(0)
  })
})

// Lenient parameters of OpenAI's route: what they become, and the warnings and errors about them.
import { afterEach, describe, test, vi } from 'vitest'
import { fetchWorker, generate, generatedOf, newCaller, ORIGIN, problemOf, send } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const p = { prompt: 'a cat' }

describe('parameters', () => {
  const cases: [string, object, object, string[]][] = [
    ['synonyms', { cfg: 3, num_inference_steps: 9, num_images: 2 }, { guidance_scale: 3, steps: 9, count: 2 }, []],
    ['a native name and its synonym', { steps: 9, step: 5 }, { steps: 9 }, ['unknown_fields']],
    ['an aspect ratio', { aspect_ratio: '16:9' }, { width: 336, height: 192 }, []],
    ['a size that is offered', { size: '512x256' }, { width: 512, height: 256 }, []],
    ['another size', { size: '1000x700' }, { width: 1008, height: 704 }, ['size_adjusted']],
    ['width and height', { width: 100, height: 100 }, { width: 96, height: 96 }, ['size_adjusted']],
    ['a random seed', { seed: -1 }, {}, []],
    ['quality "hd"', { quality: 'hd' }, { steps: 28 }, ['quality_adjusted']],
    ['a quality that the model lacks', { model: 'paired', quality: 'high' }, { model: 'paired' }, ['quality_ignored']],
    ['ten images', { n: 10 }, { count: 8 }, ['n_reduced']],
    ['compression of PNG', { output_compression: 50 }, { output_format: 'png' }, ['output_compression_ignored']],
    [
      'what has no effect',
      { background: 'auto', moderation: 'low', style: 'vivid', stream: false, foo: 1 },
      {},
      ['background_ignored', 'moderation_ignored', 'style_ignored', 'unknown_fields'],
    ],
    ['a long prompt', { prompt: 'x'.repeat(32_000) }, { prompt: 'x'.repeat(10_000) }, ['prompt_shortened']],
  ]
  test.for(cases)('%s', async ([, body, request, warnings], { expect }) => {
    const calls = fakeGpu(works)
    const { octet } = await generatedOf(await generate(await newCaller(), { ...p, ...body }))
    expect(calls[0]!.request).toMatchObject(request)
    expect(octet.warnings.map(({ code }) => code)).toEqual(warnings)
  })
})

describe('refusals name the field as it was sent, and a valid value', () => {
  const cases: [object, string, string][] = [
    [{ cfg: 99 }, 'cfg', 'cfg is 99; it must be a number from 0 to'],
    [{ num_inference_steps: 0 }, 'num_inference_steps', 'num_inference_steps is 0; it must be an integer from 1 to'],
    [{ num_images: 11 }, 'num_images', 'num_images is 11; it must be an integer from 1 to 8.'],
    [{ aspectRatio: 'wide' }, 'aspectRatio', 'aspectRatio is "wide"; it must be WIDTH:HEIGHT, such as "16:9".'],
    [{ size: '2K' }, 'size', 'size is "2K"; it must be "auto" or "WIDTHxHEIGHT", such as "1024x1024".'],
    [{ size: '1000x700', strict: true }, 'size', 'size is "1000x700"; each side must be'],
    [{ size: '6144x6144', strict: true, route: 'turbo' }, 'size', 'A valid size is 1024x1024.'],
    [{ background: 'transparent' }, 'background', 'background is "transparent"; it must be auto or opaque.'],
    [{ prompt: 'x'.repeat(32_001) }, 'prompt', '(32001 characters); it must be a text of 1 to 32000 characters.'],
    [{ stream: 'yes' }, 'stream', 'stream is "yes"; it must be true or false.'],
    [{ lora: 'ink' }, 'lora', 'lora is not offered; leave it out, or use loras.'],
    [{ controlnet: 'canny' }, 'controlnet', 'controlnet is not offered; leave it out, or use controls.'],
    [
      { image_url: 'data:image/png;base64,AA==' },
      'image_url',
      'image_url cannot be used: the file is of an unknown type',
    ],
    [{ mask: 'data:image/png;base64,AA==' }, 'mask', 'mask is given without an image; give both or neither.'],
  ]
  test.for(cases)('%j', async ([body, param, message], { expect }) => {
    const response = await generate(await newCaller(), { ...p, ...body })
    const { error } = await problemOf(response)
    expect([400, 422]).toContain(response.status)
    expect(error).toMatchObject({ param, message: expect.stringContaining(message) })
  })
})

describe('URLs', () => {
  test('with a trailing slash are served', async ({ expect }) => {
    fakeGpu(works)
    const caller = await newCaller()
    expect((await send('POST', '/v1/images/generations/', caller, p)).status).toBe(200)
    expect((await send('GET', '/v1/models/', caller)).status).toBe(200)
  })

  test.for([
    ['/images/generations', `lacks /v1: the base URL is ${ORIGIN}/v1.`],
    ['/v1/v1/images/generations', `has /v1 twice: the base URL is ${ORIGIN}/v1`],
    ['/openai/deployments/dall-e-3/images/generations?api-version=1', 'Azure'],
    ['/v1/chat/completions', 'POST https://octet.test/v1/images/generations'],
  ])('of a wrong base URL are explained: %s', async ([path, hint], { expect }) => {
    const response = await send('POST', path!, await newCaller(), p)
    expect(response.status).toBe(404)
    expect((await problemOf(response)).error.message).toContain(hint)
  })
})

test('keys are accepted in the headers of other APIs, or the rejection names the header', async ({ expect }) => {
  const { key } = await newCaller()
  fakeGpu(works)
  const places = [{ 'x-api-key': key }, { 'api-key': key }, { authorization: `Basic ${btoa(`user:${key}`)}` }]
  const schemes = ['Key', 'Token'].map((scheme) => ({ authorization: `${scheme} ${key}` }))
  for (const headers of [...places, ...schemes] as Record<string, string>[])
    expect((await generate({ headers }, p)).status).toBe(200)
  const native = await problemOf(await send('GET', '/v1/models', { headers: { 'x-api-key': key } }))
  expect(native.detail).toContain('Send it as "Authorization: Bearer oct_…". This route does not read "x-api-key')
})

describe('compressed bodies', () => {
  const compress = async (text: string) =>
    new Response(new Blob([text]).stream().pipeThrough(new CompressionStream('gzip'))).arrayBuffer()
  const post = async (body: BodyInit, encoding = 'gzip') => {
    const { headers } = await newCaller()
    const all = { ...headers, 'content-type': 'application/json', 'content-encoding': encoding }
    return fetchWorker('/v1/images/generations', { method: 'POST', headers: all, body })
  }

  test('are accepted at any compression ratio', async ({ expect }) => {
    const calls = fakeGpu(works)
    const prompt = 'a cat '.repeat(1500)
    expect((await post(await compress(JSON.stringify({ prompt })))).status).toBe(200)
    expect(calls[0]!.request.prompt).toBe(prompt)
  })

  test('are refused above the limit, if damaged, and in other formats', async ({ expect }) => {
    expect((await post(await compress(JSON.stringify({ prompt: ' '.repeat(50_000_000) })))).status).toBe(413)
    expect((await post('not gzip')).status).toBe(400)
    const other = await post('{}', 'br')
    expect([other.status, (await problemOf(other)).detail]).toEqual([
      415,
      'The content-encoding is "br"; it must be gzip or left out.',
    ])
  })
})

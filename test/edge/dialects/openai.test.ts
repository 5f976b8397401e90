import { env } from 'cloudflare:workers'
import OpenAI from 'openai'
import { afterEach, describe, test, vi } from 'vitest'
import { TIERS } from '#contract'
import {
  type Caller,
  fetchWorker,
  filesOf,
  generate,
  generatedOf,
  ledgerOf,
  newCaller,
  ORIGIN,
  problemOf,
} from '../support/client.ts'
import { fakeGpu, imageBytes, refuses, works } from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const flower = { prompt: 'a photorealistic flower garden with sunlight, best quality' }

describe('POST /v1/images/generations', () => {
  test('generates and stores an image, and reports its parameters', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    const response = await generate(caller, { ...flower, seed: 7 })
    const { data, size, octet } = await generatedOf(response)

    expect(response.status).toBe(200)
    expect(response.headers.get('x-request-id')).toBeTruthy()
    expect(response.headers.get('x-octet-job')).toBe(octet.job)
    expect(size).toBe('256x256')
    expect(octet).toMatchObject({
      route: 'turbo',
      tier: 'fp8',
      model: 'tiny',
      steps: 4,
      guidance_scale: 1,
      attempts: 1,
      warnings: [],
    })
    expect(octet.reason).toMatch(/short prompt/)
    expect(octet.timings.denoise).toBe(0.5)
    expect(calls.map(({ request }) => request)).toEqual([
      {
        protocol: 1,
        attempt: 1,
        model: 'tiny',
        tier: 'fp8',
        prompt: flower.prompt,
        negative_prompt: '',
        width: 256,
        height: 256,
        steps: 4,
        guidance_scale: 1,
        seed: 7,
        count: 1,
        output_format: 'png',
        output_quality: 90,
        text_convention: 'diffusers',
        schedule: { interactive: true, tenant: expect.any(String), weight: 1 },
      },
    ])
    const file = await fetchWorker(data[0]!.url!)
    expect(new Uint8Array(await file.arrayBuffer())).toEqual(imageBytes(7))
    expect(await filesOf(caller)).toEqual([`results/30d/${caller.account}/${octet.job}/0.png`])
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: octet.price_microdollars })
  })

  test('passes every parameter on and returns n images as base64', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    const body = {
      ...flower,
      n: 3,
      size: '512x128',
      seed: 4294967295,
      steps: 9,
      guidance_scale: 5.5,
      negative_prompt: 'blurry',
    }
    const response = await generate(caller, {
      ...body,
      response_format: 'b64_json',
      output_format: 'webp',
      output_compression: 0,
    })
    const { data, octet } = await generatedOf(response)
    expect(calls[0]!.request).toMatchObject({
      ...{ width: 512, height: 128, count: 3, steps: 9, guidance_scale: 5.5, negative_prompt: 'blurry' },
      ...{ output_format: 'webp', output_quality: 1 },
    })
    expect(octet.route).toBe('full')
    const seeds = [4294967295, 4294967296, 4294967297]
    expect(data.map(({ seed }) => seed)).toEqual(seeds)
    expect(data.map(({ b64_json }) => Uint8Array.fromBase64(b64_json!))).toEqual(seeds.map(imageBytes))
    expect(await filesOf(caller)).toHaveLength(3)
  })

  test('takes width and height, nulls, and a seed of its own when none is given', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    await generate(caller, { ...flower, width: 64, height: 128, n: null, size: null })
    await generate(caller, flower)
    expect(calls[0]!.request).toMatchObject({ width: 64, height: 128, count: 1 })
    expect(calls[0]!.request.seed).not.toBe(calls[1]!.request.seed)
  })

  test('passes on prompts of the encoders, tokens, and seeds of 64 bits', async ({ expect }) => {
    const calls = fakeGpu(works)
    const own = { prompt_2: 'a cup', prompt_3: 'two birds', max_sequence_length: 512, steps: 200, guidance_scale: 30 }
    const body = { ...flower, ...own, n: 3, seed: '18446744073709551614' }
    const { data, octet } = await generatedOf(await generate(await newCaller(), body))
    expect(calls[0]!.request).toMatchObject({ ...own, seed: '18446744073709551614' })
    expect(data.map(({ seed }) => seed)).toEqual(['18446744073709551614', '18446744073709551615', 0])
    expect(octet.steps).toBe(200)
  })

  test('reads a seed of digits as its number, and a blank prompt of an encoder as absent', async ({ expect }) => {
    const calls = fakeGpu(works)
    const body = { ...flower, seed: '0042', prompt_2: ' ', prompt_3: '' }
    const { data } = await generatedOf(await generate(await newCaller(), body))
    expect(data[0]!.seed).toBe(42)
    expect(Object.keys(calls[0]!.request)).not.toContain('prompt_2')
  })

  test('chooses the route by the text that T5 reads', async ({ expect }) => {
    fakeGpu(works)
    const body = { ...flower, prompt_3: 'a sign that says "OPEN"' }
    const { octet } = await generatedOf(await generate(await newCaller(), body))
    expect([octet.route, octet.reason]).toEqual(['full', expect.stringContaining('quotes text')])
  })

  test('takes a blank negative prompt for none', async ({ expect }) => {
    const calls = fakeGpu(works)
    const { octet } = await generatedOf(await generate(await newCaller(), { ...flower, negative_prompt: ' \u200b' }))
    expect([octet.route, calls[0]!.request.negative_prompt]).toEqual(['turbo', ''])
  })

  test('warns that a negative prompt has no effect on the turbo route', async ({ expect }) => {
    fakeGpu(works)
    const { octet } = await generatedOf(
      await generate(await newCaller(), { ...flower, route: 'turbo', negative_prompt: 'blurry' }),
    )
    expect(octet.warnings).toEqual([
      { code: 'negative_prompt_ignored', message: expect.stringContaining('guidance_scale 1') },
    ])
  })
})

describe('the official openai client', () => {
  const client = (key: string) =>
    new OpenAI({ apiKey: key, baseURL: `${ORIGIN}/v1`, fetch: (url, init) => fetchWorker(String(url), init) })

  test('reads an image', async ({ expect }) => {
    fakeGpu(works)
    const { key } = await newCaller()
    const reply = await client(key).images.generate({
      ...flower,
      model: 'tiny',
      n: 2,
      size: '1024x1024',
      quality: 'high',
      response_format: 'b64_json',
    })
    expect(reply.data).toHaveLength(2)
    expect(Uint8Array.fromBase64(reply.data![0]!.b64_json!)).toHaveLength(5000)
    expect(reply.size).toBe('1024x1024')
  })

  test('lists the models', async ({ expect }) => {
    const { key } = await newCaller()
    const ids = (await client(key).models.list()).data.map(({ id }) => id)
    expect(ids).toEqual(['tiny', 'paired'])
  })

  test('reads errors as its own classes, with message, param, code and request id', async ({ expect }) => {
    fakeGpu(works)
    const { key } = await newCaller()
    const bad = await client(key)
      .images.generate({ ...flower, n: 99 })
      .catch((error) => error)
    expect(bad).toBeInstanceOf(OpenAI.BadRequestError)
    expect(bad).toMatchObject({
      param: 'n',
      code: 'invalid_request',
      type: 'invalid_request_error',
      requestID: expect.any(String),
    })
    expect(bad.message).toContain('n is 99; it must be an integer from 1 to 8.')
    const stranger = await client('sk-nonsense')
      .images.generate(flower)
      .catch((error) => error)
    expect(stranger).toBeInstanceOf(OpenAI.AuthenticationError)
  })
})

/** Sends POST /v1/jobs. */
const submit = (caller: Pick<Caller, 'headers'>, body: unknown) =>
  fetchWorker('/v1/jobs', {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...caller.headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })

describe('refusals of the native API', () => {
  const p = { prompt: 'a cat' }
  const cases: [string, unknown, string | null, string][] = [
    ['no prompt', {}, 'prompt', 'prompt is missing; it must be a text of 1 to 10000 characters.'],
    ['an empty prompt', { prompt: '' }, 'prompt', 'prompt is ""; it must be a text of 1 to 10000 characters.'],
    ['a prompt of spaces', { prompt: ' \n\t\u00a0 ' }, 'prompt', 'prompt has no visible character'],
    ['a prompt of what does not show', { prompt: '\u200b\u2060\ufeff\u3164\u2800' }, 'prompt', 'no visible character'],
    ['a long prompt', { prompt: 'x'.repeat(10_001) }, 'prompt', '(10001 characters); it must be a text of 1 to 10000'],
    [
      'an unknown field',
      { ...p, cfg: 3 },
      'cfg',
      'cfg is not a field of this request; allowed are prompt, prompt_2, prompt_3, negative_prompt, model, n, size',
    ],
    ['n too high', { ...p, n: 9 }, 'n', 'n is 9; it must be an integer from 1 to 8.'],
    ['n as text', { ...p, n: '2' }, 'n', 'n is "2"; it must be an integer'],
    ['a broken size', { ...p, size: '1024' }, 'size', 'size is "1024"; it must be "auto" or "WIDTHxHEIGHT"'],
    [
      'an odd size',
      { ...p, size: '1000x1024' },
      'size',
      'size is "1000x1024"; each side must be 16 to 6144 and divisible by 16.',
    ],
    ['size and width', { ...p, size: '64x64', width: 64 }, 'size', 'size and width/height are both given'],
    ['width alone', { ...p, width: 64 }, 'height', 'height is missing; width and height go together.'],
    [
      'an odd width',
      { ...p, width: 65, height: 64 },
      'width',
      'width is 65; it must be an integer, 16 to 6144 and divisible by 16.',
    ],
    [
      'a negative seed',
      { ...p, seed: -1 },
      'seed',
      'seed is -1; it must be an integer from 0 to 9007199254740991, or a text of digits',
    ],
    ['a seed that JSON rounds', { ...p, seed: 2 ** 53 }, 'seed', 'seed is 9007199254740992; it must be an integer'],
    ['a seed of 65 bits', { ...p, seed: '18446744073709551616' }, 'seed', 'seed is "18446744073709551616"; it must be'],
    ['a seed of letters', { ...p, seed: '0x10' }, 'seed', 'seed is "0x10"; it must be an integer from 0 to'],
    [
      'few tokens',
      { ...p, max_sequence_length: 76 },
      'max_sequence_length',
      'max_sequence_length is 76; it must be an integer from 77 to 512.',
    ],
    ['steps', { ...p, steps: 0 }, 'steps', 'steps is 0; it must be an integer from 1 to 200.'],
    [
      'guidance',
      { ...p, guidance_scale: 31 },
      'guidance_scale',
      'guidance_scale is 31; it must be a number from 0 to 30.',
    ],
    [
      'a quality',
      { ...p, quality: 'hd' },
      'quality',
      'quality is "hd"; it must be one of auto, draft, low, standard, medium, high.',
    ],
    ['a route', { ...p, route: 'fast' }, 'route', 'route is "fast"; it must be one of auto, turbo, full.'],
    ['a tier', { ...p, tier: 'int4' }, 'tier', `tier is "int4"; it must be one of auto, ${TIERS.join(', ')}.`],
    [
      'png compression',
      { ...p, output_compression: 5 },
      'output_compression',
      'output_compression is 5, but png is lossless',
    ],
    [
      'turbo with guidance',
      { ...p, route: 'turbo', guidance_scale: 3 },
      'guidance_scale',
      'guidance_scale is 3, but the turbo route',
    ],
    ['a list', [1], null, 'The body is [1]; it must be a JSON object with prompt'],
    ['no JSON', '{"prompt":', null, 'The body is not JSON'],
  ]
  test.for(cases)('%s', async ([, body, param, message], { expect }) => {
    const caller = await newCaller()
    const response = await submit(caller, body)
    const problem = await problemOf(response)
    expect(response.status).toBe(400)
    expect(response.headers.get('content-type')).toBe('application/problem+json')
    expect(problem).toMatchObject({
      type: 'urn:octet:error:invalid_request',
      status: 400,
      error: { param, code: 'invalid_request' },
    })
    expect(problem.detail).toContain(message)
    expect(problem.request_id).toBe(response.headers.get('x-request-id'))
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })

  test('base64 of too many pixels is refused, but neither links nor base64 of fewer', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    const body = { ...p, route: 'full', n: 6, size: '4096x4096', response_format: 'b64_json' }
    expect((await problemOf(await generate(caller, body))).error).toMatchObject({
      param: 'response_format',
      message:
        'response_format is "b64_json", but 6 images of 4096x4096 are 100.7 megapixels; the limit for b64_json is 100 in total. Use response_format "url".',
    })
    const large = { ...p, route: 'full', size: '4096x4096' }
    expect((await generate(caller, { ...large, n: 6 })).status).toBe(200)
    expect((await generate(caller, { ...large, n: 5, response_format: 'b64_json' })).status).toBe(200)
  })

  test('several problems are reported in one response', async ({ expect }) => {
    const { errors } = await problemOf(await submit(await newCaller(), { prompt: 5, n: 0, foo: 1, bar: 2 }))
    expect(errors!.map(({ param }) => param).toSorted()).toEqual(['bar', 'foo', 'n', 'prompt'])
  })

  test('a model, tier or size that nothing on offer serves', async ({ expect }) => {
    const caller = await newCaller()
    const model = await generate(caller, { ...p, model: 'gpt-image-1' })
    expect(model.status).toBe(422)
    expect((await problemOf(model)).detail).toBe('model is "gpt-image-1"; this deployment serves auto, tiny, paired.')
    const size = await problemOf(await submit(caller, { ...p, route: 'turbo', size: '2048x2048' }))
    expect(size.detail).toContain('Nothing here serves route turbo, size 2048x2048')
    expect(size.error).toMatchObject({ param: 'size', message: expect.stringMatching(/A valid size is 1024x1024\.$/) })
  })

  test('a body that is too large, or no JSON by its type', async ({ expect }) => {
    const caller = await newCaller()
    expect((await generate(caller, { prompt: 'x'.repeat(300_000) })).status).toBe(413)
    expect((await generate(caller, p, { 'content-type': 'text/plain' })).status).toBe(415)
  })

  test('a refusal of the GPU function is ours to mend: fixed words, nothing charged', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(refuses(422, 'invalid_request'))
    const response = await generate(caller, p)
    expect(response.status).toBe(500)
    expect(await response.text()).not.toContain('secret detail')
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })
})

describe('access', () => {
  const revoked = async () => {
    const caller = await newCaller()
    await env.ACCOUNT.getByName(caller.account).revokeKey(caller.keyId)
    return caller.headers
  }
  const forged = async () => {
    const { key } = await newCaller()
    return { authorization: `Bearer ${key.slice(0, -1)}${key.endsWith('0') ? '1' : '0'}` }
  }
  const elsewhere = async () => {
    const [{ key }, { account }] = [await newCaller(), await newCaller()]
    return { authorization: `Bearer ${key.replace(/^oct_[^_]+/, `oct_${account}`)}` }
  }
  const cases: [string, () => Promise<Record<string, string>>][] = [
    ['no key', async () => ({})],
    ['another scheme', async () => ({ authorization: 'Basic abc' })],
    ['a forged tag', forged],
    ['another account’s name on a key', elsewhere],
    ['a revoked key', revoked],
  ]
  test.for(cases)('%s is refused with 401', async ([, headers], { expect }) => {
    const calls = fakeGpu(works)
    const response = await generate({ headers: await headers() }, flower)
    expect(response.status).toBe(401)
    expect(response.headers.get('www-authenticate')).toBe('Bearer realm="octet"')
    expect((await problemOf(response)).error.code).toBe('invalid_api_key')
    expect(calls).toEqual([])
  })
})

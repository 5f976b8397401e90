import { env } from 'cloudflare:workers'
import OpenAI from 'openai'
import { afterEach, describe, test, vi } from 'vitest'
import {
  fetchWorker,
  filesOf,
  generate,
  generatedOf,
  ledgerOf,
  newCaller,
  ORIGIN,
  problemOf,
} from '../support/client.ts'
import { createImageBytes, fakeGpu, works } from '../support/fake-gpu.ts'

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
        sampler: 'euler',
        seed: 7,
        count: 1,
        output_format: 'png',
        output_quality: 90,
        text_convention: 'diffusers',
        schedule: { interactive: true, tenant: expect.any(String), weight: 1 },
      },
    ])
    const file = await fetchWorker(data[0]!.url!)
    expect(new Uint8Array(await file.arrayBuffer())).toEqual(createImageBytes(7))
    expect(await filesOf(caller)).toEqual([`results/30d/${caller.account}/${octet.job}/0.png`])
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: octet.price_microdollars })
  })

  test('forwards every parameter and returns n images as base64', async ({ expect }) => {
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
    expect(data.map(({ b64_json }) => Uint8Array.fromBase64(b64_json!))).toEqual(seeds.map(createImageBytes))
    expect(await filesOf(caller)).toHaveLength(3)
  })

  test('accepts width and height and null fields, and draws a seed if none is given', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    await generate(caller, { ...flower, width: 64, height: 128, n: null, size: null })
    await generate(caller, flower)
    expect(calls[0]!.request).toMatchObject({ width: 64, height: 128, count: 1 })
    expect(calls[0]!.request.seed).not.toBe(calls[1]!.request.seed)
  })

  test('forwards prompts of single encoders, max_sequence_length, and seeds of 64 bits', async ({ expect }) => {
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

  test('treats a blank negative prompt as absent', async ({ expect }) => {
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
  const createClient = (key: string) =>
    new OpenAI({ apiKey: key, baseURL: `${ORIGIN}/v1`, fetch: (url, init) => fetchWorker(String(url), init) })

  test('reads an image', async ({ expect }) => {
    fakeGpu(works)
    const { key } = await newCaller()
    const reply = await createClient(key).images.generate({
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
    const ids = (await createClient(key).models.list()).data.map(({ id }) => id)
    expect(ids).toEqual(['tiny', 'paired'])
  })

  test('throws its own error classes, with message, param, code and request id', async ({ expect }) => {
    fakeGpu(works)
    const { key } = await newCaller()
    const bad = await createClient(key)
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
    const stranger = await createClient('sk-nonsense')
      .images.generate(flower)
      .catch((error) => error)
    expect(stranger).toBeInstanceOf(OpenAI.AuthenticationError)
  })
})

describe('access', () => {
  const createRevokedKey = async () => {
    const caller = await newCaller()
    await env.ACCOUNT.getByName(caller.account).revokeKey(caller.keyId)
    return caller.headers
  }
  const requestWithForgedKey = async () => {
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
    ['a forged tag', requestWithForgedKey],
    ['another account’s name on a key', elsewhere],
    ['a revoked key', createRevokedKey],
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

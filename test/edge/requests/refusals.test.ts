import { afterEach, describe, test, vi } from 'vitest'
import { TIERS } from '#contract'
import { type Caller, fetchWorker, generate, ledgerOf, newCaller, problemOf } from '../support/client.ts'
import { fakeGpu, refuses, works } from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

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
    [
      'a prompt of invisible characters',
      { prompt: '\u200b\u2060\ufeff\u3164\u2800' },
      'prompt',
      'no visible character',
    ],
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
    [
      'a seed above the exact integers of JSON',
      { ...p, seed: 2 ** 53 },
      'seed',
      'seed is 9007199254740992; it must be an integer',
    ],
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

  test('a model, tier or size without an offer', async ({ expect }) => {
    const caller = await newCaller()
    const model = await generate(caller, { ...p, model: 'gpt-image-1' })
    expect(model.status).toBe(422)
    expect((await problemOf(model)).detail).toBe('model is "gpt-image-1"; this deployment serves auto, tiny, paired.')
    const size = await problemOf(await submit(caller, { ...p, route: 'turbo', size: '2048x2048' }))
    expect(size.detail).toContain('Nothing here serves route turbo, size 2048x2048')
    expect(size.error).toMatchObject({ param: 'size', message: expect.stringMatching(/A valid size is 1024x1024\.$/) })
  })

  test('a body that is too large, or whose type is not JSON', async ({ expect }) => {
    const caller = await newCaller()
    expect((await generate(caller, { prompt: 'x'.repeat(300_000) })).status).toBe(413)
    expect((await generate(caller, p, { 'content-type': 'text/plain' })).status).toBe(415)
  })

  test('a refusal of the GPU function is a service fault: a generic message, nothing charged', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(refuses(422, 'invalid_request'))
    const response = await generate(caller, p)
    expect(response.status).toBe(500)
    expect(await response.text()).not.toContain('secret detail')
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })
})

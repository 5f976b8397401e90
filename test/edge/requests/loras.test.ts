// Adapters (LoRAs) of requests: the catalog's offers, the native API and the dialects.
import { env } from 'cloudflare:workers'
import type { JSONWebKeySet } from 'jose'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import { DEFAULT_PRICES } from '../../../edge/config/prices.ts'
import { findProblems } from '../../../edge/config.ts'
import { openReceipt } from '../../../edge/results/receipt.ts'
import { computeBasePrice, price } from '../../../edge/routing/price.ts'
import { type Caller, fetchWorker, generate, generatedOf, newCaller, problemOf, send } from '../support/client.ts'
import { createAccepted, encodeLine, fakeGpu, type SeenRequest, stream, works } from '../support/fake-gpu.ts'

const variables = env as unknown as Record<string, unknown>
const before = variables.OCTET_CATALOG
const createCatalog = (loras: unknown) => JSON.stringify({ ...JSON.parse(String(before)), loras })

let caller: Caller
let gpu: SeenRequest[]
beforeEach(async () => {
  caller = await newCaller()
  variables.OCTET_CATALOG = createCatalog([
    { id: 'ink', models: ['tiny', 'paired'], scale: 0.8, trigger_words: ['ink drawing'] },
    { id: 'mine', models: ['tiny'], accounts: [caller.account] },
    { id: 'pair', models: ['paired'] },
    { id: 'hidden', models: ['tiny'], accounts: ['another'] },
  ])
  gpu = fakeGpu(works)
})
afterEach(() => {
  variables.OCTET_CATALOG = before
  vi.restoreAllMocks()
})

const LIST = /a list of 1 to 8 objects/
const listSent = () => gpu.map(({ request }) => request.loras)

describe('the native API', () => {
  test('sends adapters with their strengths, by default those of the catalog', async ({ expect }) => {
    const loras = [{ id: 'ink' }, { id: 'mine', scale: -0.5 }]
    const response = await generate(caller, { prompt: 'a cat', seed: 1, loras })
    expect(response.status).toBe(200)
    const chosen = [
      { id: 'ink', scale: 0.8 },
      { id: 'mine', scale: -0.5 },
    ]
    expect(listSent()).toEqual([chosen])
    const { octet } = await generatedOf(response)
    const { data } = (await (await send('GET', `/v1/jobs/${octet.job}/receipts`, caller)).json()) as {
      data: { receipt: string }[]
    }
    const jwks = (await (await fetchWorker('/.well-known/jwks.json')).json()) as JSONWebKeySet
    const { parameters } = await openReceipt(data[0]!.receipt, jwks)
    expect(parameters.loras).toEqual(chosen.map((lora) => ({ ...lora, package: 'e'.repeat(64) })))
  })

  test('chooses a model compatible with the adapters', async ({ expect }) => {
    await generate(caller, { prompt: 'a cat', loras: [{ id: 'pair' }] })
    await generate(caller, { prompt: 'a cat', loras: [{ id: 'ink' }, { id: 'mine' }], route: 'full' })
    expect(gpu.map(({ request }) => request.model)).toEqual(['paired', 'tiny'])
  })

  test('different strengths produce different images', async ({ expect }) => {
    const make = async (scale: number) => {
      const fields = { prompt: 'a', seed: 1, reuse: true, loras: [{ id: 'ink', scale }] }
      return (await generatedOf(await generate(caller, fields))).octet.job
    }
    const strong = await make(1)
    expect(await make(0.5)).not.toBe(strong)
    expect(await make(1)).toBe(strong)
  })

  test.for([
    [[{ id: 'unknown' }], 'loras has the id "unknown"; it must be one of ink, mine, pair.'],
    // An adapter of other accounts only gets the same message as an unknown one.
    [[{ id: 'hidden' }], 'loras has the id "hidden"; it must be one of ink, mine, pair.'],
    [[{ id: 'ink' }, { id: 'ink', scale: 1 }], 'loras has "ink" twice; name each adapter once.'],
    [[{ id: 'mine' }, { id: 'pair' }], 'loras have no model in common: mine is for tiny; pair is for paired.'],
    [[{ id: 'ink', scale: 40 }], LIST],
    [[{ id: 'ink', strength: 1 }], LIST],
    ['ink', LIST],
  ] as const)('refuses %j', async ([loras, message], { expect }) => {
    const response = await generate(caller, { prompt: 'a cat', loras })
    expect(response.status).toBe(400)
    const { error } = await problemOf(response)
    expect(error).toMatchObject({ code: 'invalid_request', param: expect.stringMatching(/^loras/) })
    expect(error.message).toMatch(
      typeof message === 'string' ? new RegExp(`^${message.replace(/[.()]/g, '\\$&')}$`) : message,
    )
    expect(gpu).toEqual([])
  })

  test('refuses a model that is incompatible with the adapters', async ({ expect }) => {
    const response = await generate(caller, { prompt: 'a cat', model: 'tiny', loras: [{ id: 'pair' }] })
    expect((await problemOf(response)).error.message).toBe('loras are for paired, not for "tiny".')
  })

  test('a refusal names the adapters if no model of the requested route is compatible', async ({ expect }) => {
    const quoted = await send('POST', '/v1/quote', caller, {
      prompt: 'a cat',
      size: '2048x2048',
      loras: [{ id: 'pair' }],
    })
    expect((await problemOf(quoted)).error.message).toMatch(
      /^Nothing here serves route \w+, size 2048x2048 with these loras; there is \w+\/paired/,
    )
  })

  test('the surcharge for adapters applies once, in a quote and in a canceled job', async ({ expect }) => {
    const work = { width: 256, height: 256, steps: 4, count: 1, tier: 'fp8', guidanceScale: 1 } as const
    const loras = [{ id: 'ink', scale: 1 }]
    const { addition, base } = DEFAULT_PRICES
    expect(price({ ...work, loras, count: 8 })).toBe(price({ ...work, count: 8 }) + addition)
    expect(price({ ...work, loras, controls: [{ id: 'canny', scale: 1 }] })).toBe(
      price({ ...work, steps: 6 }) + addition,
    )
    expect([computeBasePrice({ loras }, DEFAULT_PRICES), computeBasePrice({}, DEFAULT_PRICES)]).toEqual([
      base + addition,
      base,
    ])
    const quoteOf = async (more: object) => {
      const quoted = await send('POST', '/v1/quote', caller, { prompt: 'a cat', model: 'tiny', ...more })
      return ((await quoted.json()) as { price_microdollars: number }).price_microdollars
    }
    expect(await quoteOf({ loras })).toBe((await quoteOf({})) + addition)
  })

  test('lists the adapters of an account with its models', async ({ expect }) => {
    const listLoras = async (by: Caller) => {
      const { data } = (await (await send('GET', '/v1/models', by)).json()) as {
        data: { id: string; octet_loras: { id: string }[] }[]
      }
      return Object.fromEntries(data.map(({ id, octet_loras }) => [id, octet_loras.map((lora) => lora.id)]))
    }
    expect(await listLoras(caller)).toEqual({ tiny: ['ink', 'mine'], paired: ['ink', 'pair'] })
    expect(await listLoras(await newCaller())).toEqual({ tiny: ['ink'], paired: ['ink', 'pair'] })
    expect(await (await send('GET', '/v1/models/tiny', caller)).json()).toMatchObject({
      octet_loras: [
        { id: 'ink', models: ['tiny', 'paired'], scale: 0.8, trigger_words: ['ink drawing'] },
        { id: 'mine' },
      ],
    })
  })
})

test('a run without the adapters fails the job', async ({ expect }) => {
  gpu = fakeGpu((seen) => {
    const { model, tier } = seen.request
    return stream([
      createAccepted(seen),
      encodeLine({ type: 'started', model, tier, package: 'a'.repeat(64), device: 'fake' }),
    ])
  })
  const response = await generate(caller, { prompt: 'a cat', loras: [{ id: 'ink' }] })
  expect(response.status).toBe(500)
})

describe('dialects', () => {
  test.for([
    [
      'fal',
      '/fal/run/octet/tiny',
      { prompt: 'a cat', loras: [{ path: 'https://host/loras/ink.safetensors', scale: 0.4 }] },
    ],
    [
      'replicate',
      '/v1/predictions',
      { version: 'octet/tiny', input: { prompt: 'a cat', lora: 'me/ink', lora_scale: 0.4 } },
    ],
    ['a1111', '/sdapi/v1/txt2img', { prompt: 'a <lora:ink:0.4> cat' }],
  ] as const)('%s', async ([name, path, body], { expect }) => {
    const headers = { ...caller.headers, prefer: 'wait', 'content-type': 'application/json' }
    const response = await fetchWorker(path, { method: 'POST', headers, body: JSON.stringify(body) })
    expect(response.status, `${name} ${await response.clone().text()}`).toBeLessThan(300)
    expect(listSent()).toEqual([[{ id: 'ink', scale: 0.4 }]])
    expect(gpu[0]!.request.prompt).toBe('a cat')
  })

  test('Replicate accepts a second adapter, and the web interface a list', async ({ expect }) => {
    const input = { prompt: 'a cat', lora_weights: 'ink', extra_lora: 'owner/mine', extra_lora_scale: 0.3 }
    await send('POST', '/v1/predictions', caller, { version: 'octet/tiny', input })
    await vi.waitFor(() =>
      expect(listSent()).toEqual([
        [
          { id: 'ink', scale: 0.8 },
          { id: 'mine', scale: 0.3 },
        ],
      ]),
    )
    const headers = { authorization: `Basic ${btoa(`user:${caller.key}`)}` }
    const listed = (await (await fetchWorker('/sdapi/v1/loras', { headers })).json()) as { name: string }[]
    expect(listed.map(({ name }) => name)).toEqual(['ink', 'mine', 'pair'])
  })

  const post = (path: string, body: object) => send('POST', path, caller, body)
  const [fal, a1111] = ['/fal/run/octet/tiny', '/sdapi/v1/txt2img']

  test.for([
    [fal, { loras: [{ path: 'https://host/x/Ink.safetensors?download=true', scale: 0.4 }] }, [0.4]],
    [fal, { loras: [{ path: '' }, { path: 'ink', scale: 0.4 }] }, [0.4]],
    [fal, { loras: [{ id: '', path: 'ink', scale: 0.4 }] }, [0.4]],
    [a1111, { prompt: 'a cat <lora:Ink:0.4>' }, [0.4]],
    [a1111, { prompt: 'a cat <lora:ink>' }, [0.8]],
    [a1111, { prompt: 'a cat <lora:ink:te=0.4>' }, [0.4]],
    // The strength of the denoiser applies.
    [a1111, { prompt: 'a cat <lora:ink:1:0.4>' }, [0.4], 'has a single strength'],
    [a1111, { prompt: 'a cat <lora:ink:te=1:unet=0.4>' }, [0.4], 'has a single strength'],
  ] as const)('%s has the strengths of %j', async ([path, fields, scales, warning = ''], { expect }) => {
    const response = await post(path, { prompt: 'a cat', ...fields })
    expect([response.status, await response.text()]).toEqual([200, expect.stringContaining(warning)])
    expect(listSent()).toEqual([scales.map((scale) => ({ id: 'ink', scale }))])
  })

  test.for([
    [fal, { loras: [{ scale: 1 }] }, 'loras has an entry without path; it must name an adapter'],
    [fal, { loras: [{ url: 'ink' }] }, 'loras has an entry without path'],
    [fal, { loras: [{ path: 'ink', scale: 40 }] }, 'objects with a path and, optionally, a scale from -4 to 4'],
    [a1111, { prompt: 'a cat <lora:ink:strong>' }, 'a scale from -4 to 4'],
    [a1111, { prompt: 'a cat <lora:ink:1e999>' }, 'a scale from -4 to 4'],
  ] as const)('%s refuses %j', async ([path, fields, message], { expect }) => {
    const response = await post(path, { prompt: 'a cat', ...fields })
    expect([response.status, await response.text()]).toEqual([
      path === fal ? 422 : 400,
      expect.stringContaining(message),
    ])
    expect(gpu).toEqual([])
  })

  test('adapters of all LoRA fields of Replicate apply', async ({ expect }) => {
    const input = { prompt: 'a cat', lora: 'ink', hf_lora: 'owner/mine', lora_weights: 'ink', lora_scale: 0.5 }
    const headers = { ...caller, headers: { ...caller.headers, prefer: 'wait' } }
    expect((await send('POST', '/v1/predictions', headers, { version: 'octet/tiny', input })).status).toBe(201)
    expect(listSent()).toEqual([['ink', 'mine'].map((id) => ({ id, scale: 0.5 }))])
  })

  test.for(['ink--v2', 'ink-', 'a'.repeat(64)])('accept every ID of the catalog: %s', async (id, { expect }) => {
    variables.OCTET_CATALOG = createCatalog([{ id, models: ['tiny'] }])
    for (const [path, fields] of [
      [fal, { loras: [{ path: `https://host/${id}.safetensors` }] }],
      [a1111, { prompt: `a cat <lora:${id}:1>` }],
    ] as const)
      expect((await post(path, { prompt: 'a cat', ...fields })).status).toBe(200)
    expect(listSent().flat()).toEqual([id, id].map((each) => ({ id: each, scale: 1 })))
  })

  test('an unknown adapter is refused with the field of the dialect', async ({ expect }) => {
    const headers = { ...caller.headers, 'content-type': 'application/json' }
    const body = JSON.stringify({ prompt: 'a <lora:none> cat' })
    const response = await fetchWorker('/sdapi/v1/txt2img', { method: 'POST', headers, body })
    expect([response.status, await response.text()]).toEqual([400, expect.stringContaining('loras has the id')])
    expect(gpu).toEqual([])
  })
})

test.for([
  [[{ id: 'ink', models: ['absent'] }], /lora ink is for absent, which is not offered/],
  [
    [
      { id: 'ink', models: ['tiny'] },
      { id: 'ink', models: ['tiny'] },
    ],
    /lora ink is listed twice/,
  ],
  [[{ id: 'Ink', models: ['tiny'] }], /loras/],
  [[{ id: 'ink', models: [] }], /loras/],
] as const)('the catalog refuses %j', ([loras, message], { expect }) => {
  const problems = findProblems({ ...env, OCTET_CATALOG: createCatalog(loras) } as unknown as Parameters<
    typeof findProblems
  >[0])
  expect(JSON.stringify(problems)).toMatch(message)
})

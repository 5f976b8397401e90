// ControlNets of requests: the catalog's offers, the native API, and its dialects.
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import { sha256 } from '../../../edge/auth/keys.ts'
import { DEFAULT_PRICES } from '../../../edge/config/prices.ts'
import { findProblems } from '../../../edge/config.ts'
import { price } from '../../../edge/routing/price.ts'
import { type Caller, fetchWorker, generate, generatedOf, newCaller, problemOf, send } from '../support/client.ts'
import { createAccepted, encodeLine, fakeGpu, type SeenRequest, stream, works } from '../support/fake-gpu.ts'

const variables = env as unknown as Record<string, unknown>
const before = variables.OCTET_CATALOG
const createCatalog = (controlnets: unknown) =>
  JSON.stringify({ ...JSON.parse(String(before)), loras: [{ id: 'ink', models: ['paired'] }], controlnets })

let caller: Caller
let gpu: SeenRequest[]
beforeEach(async () => {
  caller = await newCaller()
  variables.OCTET_CATALOG = createCatalog([
    { id: 'canny', models: ['tiny', 'paired'], scale: 0.8 },
    { id: 'depth', models: ['tiny'] },
    { id: 'hidden', models: ['tiny'], accounts: ['another'] },
  ])
  gpu = fakeGpu(works)
})
afterEach(() => {
  variables.OCTET_CATALOG = before
  vi.restoreAllMocks()
})

/** The beginning of a valid PNG, which is all that the worker reads. */
const IMAGE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 1, 2, 3)
const image = IMAGE.toBase64()
const FIELDS = { prompt: 'a cat', seed: 1 }

test('sends the ControlNet and its image, by default with the strength of the catalog', async ({ expect }) => {
  const response = await generate(caller, { ...FIELDS, controls: [{ id: 'canny', image, stop: 0.5 }] })
  expect(response.status).toBe(200)
  const [{ request, files }] = gpu as [SeenRequest]
  expect(request.controls).toEqual([{ id: 'canny', scale: 0.8, stop: 0.5 }])
  expect(request.inputs).toEqual([{ name: 'control', bytes: IMAGE.length, sha256: await sha256(IMAGE) }])
  expect(files).toEqual([IMAGE])
  expect(JSON.stringify(await generatedOf(response))).not.toContain(image)
})

test('a form has the list as JSON and the image as a file', async ({ expect }) => {
  const form = new FormData()
  for (const [name, value] of Object.entries({ prompt: 'a cat', controls: '[{"id":"depth","scale":0.5}]' }))
    form.set(name, value)
  form.set('control_image', new File([IMAGE], 'map.png'))
  const response = await fetchWorker('/v1/images/generations', { method: 'POST', headers: caller.headers, body: form })
  expect([response.status, gpu[0]?.request.controls]).toEqual([200, [{ id: 'depth', scale: 0.5 }]])
  expect(gpu[0]!.files).toEqual([IMAGE])
})

test('a step with a ControlNet costs one and a half times as much', async ({ expect }) => {
  const chargeOf = async (more: object) => {
    const quoted = await send('POST', '/v1/quote', caller, { ...FIELDS, steps: 4, route: 'full', ...more })
    return ((await quoted.json()) as { price_microdollars: number }).price_microdollars
  }
  const work = { width: 256, height: 256, steps: 4, count: 1, tier: 'fp8', guidanceScale: 1 } as const
  const quoteSteps = (more: object) =>
    price({ ...work, controls: [{ id: 'canny', scale: 1, ...more }] }) - DEFAULT_PRICES.addition
  expect(quoteSteps({})).toBe(price({ ...work, steps: 6 }))
  expect(quoteSteps({ stop: 0.5 })).toBe(price({ ...work, steps: 5 }))
  expect(quoteSteps({ start: 0.9 })).toBe(price(work))
  // A quote does not need the image.
  expect(await chargeOf({ controls: [{ id: 'canny' }] })).toBeGreaterThan(await chargeOf({}))
})

test('a ControlNet without a step in its range causes a warning', async ({ expect }) => {
  const warningsOf = async (more: object) => {
    const controls = [{ id: 'canny', image, ...more }]
    const response = await generate(caller, { ...FIELDS, steps: 4, controls })
    return (await generatedOf(response)).octet.warnings.filter(({ code }) => code === 'controls_ignored')
  }
  expect(await warningsOf({ stop: 0.25 })).toEqual([])
  const message = 'controls: canny had no effect; none of the 4 steps is between 0.3 and 0.4.'
  expect(await warningsOf({ start: 0.3, stop: 0.4 })).toEqual([{ code: 'controls_ignored', message }])
})

test('a request that differs in its control image alone has another fingerprint', async ({ expect }) => {
  const jobOf = async (bytes: Uint8Array) => {
    const controls = [{ id: 'canny', image: bytes.toBase64() }]
    return (await generatedOf(await generate(caller, { ...FIELDS, reuse: true, controls }))).octet.job
  }
  const first = await jobOf(IMAGE)
  expect(await jobOf(Uint8Array.of(...IMAGE, 4))).not.toBe(first)
  expect(await jobOf(IMAGE)).toBe(first)
})

describe('refuses', () => {
  test.for([
    [{ controls: [{ id: 'unknown', image }] }, 'controls has the id "unknown"; it must be one of canny, depth.'],
    [{ controls: [{ id: 'hidden', image }] }, 'controls has the id "hidden"; it must be one of canny, depth.'],
    [
      { controls: ['canny', 'depth'].map((id) => ({ id, image })) },
      'controls has 2 entries; a request can have 1 ControlNet. Keep one of them.',
    ],
    [{ controls: [{ id: 'canny' }] }, /^controls has no image; it must be a list of 1 object with an id, an image/],
    [{ controls: [{ id: 'canny', image, scale: 9 }] }, /a list of 1 object .* a scale from 0 to 4/],
    [{ controls: [{ id: 'canny', image, start: 0.6, stop: 0.5 }] }, /start must be below stop/],
    [{ controls: [{ id: 'canny', image: 'PHN2Zz4=' }] }, /^the image of controls cannot be used: the file is SVG/],
    [{ controls: [{ id: 'canny', image }], control_image: image }, /both given/],
    [{ control_image: image }, 'control_image is given without controls; name a ControlNet in controls.'],
    [{ model: 'paired', controls: [{ id: 'depth', image }] }, 'controls are for tiny, not for "paired".'],
    [
      { loras: [{ id: 'ink' }], controls: [{ id: 'depth', image }] },
      'controls are for tiny; the other additions of the request are for other models.',
    ],
  ] as const)('%j', async ([fields, message], { expect }) => {
    const response = await generate(caller, { ...FIELDS, ...fields })
    expect(response.status).toBe(400)
    const { error } = await problemOf(response)
    expect(error).toMatchObject({ code: 'invalid_request', param: expect.stringMatching(/^control/) })
    if (typeof message === 'string') expect(error.message).toBe(message)
    else expect(error.message).toMatch(message)
    expect(gpu).toEqual([])
  })

  test('a request without a key, before its image is fetched', async ({ expect }) => {
    const fetched = vi.spyOn(globalThis, 'fetch')
    const controls = [{ id: 'canny', image: 'https://images.example/edges.png' }]
    const response = await generate({ ...caller, headers: {} }, { ...FIELDS, controls })
    expect([response.status, fetched.mock.calls.length]).toEqual([401, 0])
  })

  test('a run without the ControlNet', async ({ expect }) => {
    gpu = fakeGpu((seen) => {
      const { model, tier } = seen.request
      return stream([
        createAccepted(seen),
        encodeLine({ type: 'started', model, tier, package: 'a'.repeat(64), device: 'fake' }),
      ])
    })
    expect((await generate(caller, { ...FIELDS, controls: [{ id: 'canny', image }] })).status).toBe(500)
  })
})

test('lists the ControlNets of an account with its models', async ({ expect }) => {
  const { data } = (await (await send('GET', '/v1/models', caller)).json()) as {
    data: { id: string; octet_controlnets: unknown }[]
  }
  const canny = { id: 'canny', models: ['tiny', 'paired'], tiers: ['fp8'], scale: 0.8 }
  expect(Object.fromEntries(data.map(({ id, octet_controlnets }) => [id, octet_controlnets]))).toEqual({
    tiny: [canny, { id: 'depth', models: ['tiny'], tiers: ['fp8'], scale: 1 }],
    paired: [canny],
  })
})

describe('dialects', () => {
  const post = (path: string, body: object) => {
    const headers = { ...caller.headers, 'content-type': 'application/json' }
    return fetchWorker(path, { method: 'POST', headers, body: JSON.stringify(body) })
  }
  const fal = { path: 'owner/canny', control_image_url: `data:image/png;base64,${image}`, conditioning_scale: 0.4 }
  const unit = { model: 'canny [1f2e]', image, weight: 0.4, guidance_start: 0.1 }
  const createUnits = (...args: object[]) => ({ alwayson_scripts: { controlnet: { args } } })

  test.for([
    ['/fal/run/octet/tiny', { controlnets: [{ ...fal, start_percentage: 0.1 }] }],
    ['/fal/run/octet/tiny', { controlnet: { ...fal, start_percentage: 0.1 } }],
    ['/sdapi/v1/txt2img', createUnits({ enabled: false }, unit, { model: 'None' })],
    ['/sdapi/v1/txt2img', createUnits({ ...unit, module: 'none', image: { image, mask: '' } })],
  ] as const)('%s %j', async ([path, body], { expect }) => {
    const response = await post(path, { prompt: 'a cat', ...body })
    expect(response.status, await response.clone().text()).toBe(200)
    expect(gpu[0]!.request.controls).toEqual([{ id: 'canny', scale: 0.4, start: 0.1 }])
    expect(gpu[0]!.files).toEqual([IMAGE])
  })

  test.for([
    ['/fal/run/octet/tiny', { controlnets: [fal, fal] }, 400, 'has 2 entries; a request can have 1 ControlNet'],
    ['/fal/run/octet/tiny', { controlnets: [{ path: 'canny' }] }, 422, 'controlnets'],
    ['/sdapi/v1/txt2img', createUnits({ ...unit, module: 'canny' }), 400, 'so it must be'],
    ['/sdapi/v1/txt2img', createUnits({ ...unit, weight: -1 }), 400, 'alwayson_scripts'],
  ] as const)('%s refuses %j', async ([path, body, status, message], { expect }) => {
    const response = await post(path, { prompt: 'a cat', ...body })
    expect([response.status, await response.text()]).toEqual([status, expect.stringContaining(message)])
    expect(gpu).toEqual([])
  })
})

test.for([
  [[{ id: 'canny', models: ['absent'] }], /controlnet canny is for absent, which is not offered/],
  [
    [
      { id: 'canny', models: ['tiny'] },
      { id: 'canny', models: ['tiny'] },
    ],
    /controlnet canny is listed twice/,
  ],
  [[{ id: 'canny', models: ['tiny'], scale: -1 }], /controlnets/],
] as const)('the catalog refuses %j', ([controlnets, message], { expect }) => {
  const problems = findProblems({ ...env, OCTET_CATALOG: createCatalog(controlnets) } as unknown as Parameters<
    typeof findProblems
  >[0])
  expect(JSON.stringify(problems)).toMatch(message)
})

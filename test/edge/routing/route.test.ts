import { describe, test } from 'vitest'
import type { Catalog, Offer } from '../../../edge/config/catalog.ts'
import type { RouteRequest } from '../../../edge/routing/decision.ts'
import { price } from '../../../edge/routing/price.ts'
import { chooseRoute, requestsText } from '../../../edge/routing/route.ts'
import type { Estimate } from '../../../edge/routing/route-guards.ts'
import { createConfigWith } from '../support/config.ts'

const base = {
  endpoint: 'default',
  width: 1024,
  height: 1024,
  max_pixels: 1024 * 1024,
  max_side: 1536,
  sampler: 'euler' as const,
}
const turbo: Offer = { ...base, route: 'turbo', model: 'large-turbo', tier: 'fp8', steps: 4, guidance_scale: 1 }
const full: Offer = {
  ...base,
  route: 'full',
  model: 'large',
  tier: 'fp8',
  steps: 28,
  guidance_scale: 4.5,
  max_pixels: 2048 * 2048,
  max_side: 2048,
}
const lite = { tier: 'fp8-lite' as const }
const half = { tier: 'fp16' as const, endpoint: 'h100' }

const endpoints = { default: 'https://a.test', h100: 'https://b.test' }
const catalog: Catalog = {
  endpoints,
  offers: [{ ...turbo, ...lite }, turbo, { ...full, ...lite }, full, { ...full, ...half }],
}
/** Milliseconds by tier, as if measured; fp16 never ran. */
const MEASURED: Record<string, number | null> = { 'fp8-lite': 1000, fp8: 2000, fp16: null }
const estimate: Estimate = (decision) => ({
  price: price({ ...decision, count: 1 }),
  latencyMs: MEASURED[decision.tier]! && MEASURED[decision.tier]! * (decision.route === 'full' ? 10 : 1),
})
const choose = (request: Partial<RouteRequest>, offers = catalog.offers) =>
  chooseRoute({ prompt: 'a cat', negativePrompt: '', quality: 'auto', ...request }, { endpoints, offers }, estimate)

describe('the decision and its reason', () => {
  const long = 'a very long prompt '.repeat(20)
  const cases: [string, Partial<RouteRequest>, Partial<ReturnType<typeof choose>>, RegExp][] = [
    [
      'a short prompt',
      {},
      { route: 'turbo', tier: 'fp8-lite', steps: 4, guidanceScale: 1, model: 'large-turbo' },
      /short prompt/,
    ],
    [
      'route full',
      { route: 'full' },
      { route: 'full', tier: 'fp8-lite', steps: 28, guidanceScale: 4.5, model: 'large' },
      /names the full/,
    ],
    [
      'route turbo despite quoted text',
      { route: 'turbo', prompt: 'a sign "OPEN"' },
      { route: 'turbo', tier: 'fp8' },
      /names the turbo/,
    ],
    ['quality draft', { quality: 'draft', prompt: long }, { route: 'turbo', tier: 'fp8' }, /Quality "draft"/],
    ['quality low', { quality: 'low' }, { route: 'turbo' }, /Quality "low"/],
    ['quality high', { quality: 'high' }, { route: 'full' }, /Quality "high"/],
    [
      'quality standard has no preference',
      { quality: 'standard', steps: 50 },
      { route: 'full', steps: 50 },
      /50 steps/,
    ],
    ['few steps', { steps: 6 }, { route: 'turbo', steps: 6 }, /6 steps/],
    ['guidance', { guidanceScale: 7 }, { route: 'full', guidanceScale: 7 }, /guidance_scale 7 needs/],
    ['guidance 1 has no preference', { guidanceScale: 1 }, { route: 'turbo', guidanceScale: 1 }, /short prompt/],
    [
      'no guidance on the full route',
      { route: 'full', guidanceScale: 0 },
      { route: 'full', guidanceScale: 0 },
      /names/,
    ],
    ['a negative prompt', { negativePrompt: 'blurry' }, { route: 'full' }, /negative_prompt/],
    ['quoted text', { prompt: 'a sign that says “OPEN”' }, { route: 'full', tier: 'fp8' }, /text to be drawn/],
    [
      'quoted text and few steps',
      { prompt: 'a sign "OPEN"', steps: 4 },
      { route: 'full', tier: 'fp8', steps: 4 },
      /text to be drawn/,
    ],
    [
      'quoted text, but the caller names the tier',
      { prompt: 'a "B"', tier: 'fp8-lite' },
      { route: 'full', tier: 'fp8-lite' },
      /text/,
    ],
    ['a long prompt', { prompt: long }, { route: 'full', tier: 'fp8' }, /longer than CLIP reads/],
    ['a tier', { tier: 'fp8' }, { route: 'turbo', tier: 'fp8' }, /short prompt/],
    [
      'a tier of one route only',
      { tier: 'fp16' },
      { route: 'full', tier: 'fp16', endpoint: 'h100' },
      /only the full route serves/,
    ],
    ['a model of one route only', { model: 'large' }, { route: 'full', model: 'large' }, /only the full route serves/],
    ['a size', { size: { width: 512, height: 768 } }, { route: 'turbo', width: 512, height: 768 }, /short prompt/],
    [
      'a size beyond turbo',
      { size: { width: 2048, height: 1024 } },
      { route: 'full', width: 2048 },
      /only the full route serves/,
    ],
    ['no size', { route: 'full' }, { width: 1024, height: 1024 }, /names/],
  ]
  test.for(cases)('%s', ([, request, decision, reason], { expect }) => {
    expect(choose(request)).toMatchObject(decision)
    expect(choose(request).reason).toMatch(reason)
    expect(choose(request)).toEqual(choose(request))
  })

  const refused: [string, Partial<RouteRequest>, string, string][] = [
    ['turbo and guidance', { route: 'turbo', guidanceScale: 5 }, 'invalid_request', 'runs without guidance'],
    ['draft and guidance', { quality: 'draft', guidanceScale: 5 }, 'invalid_request', 'runs without guidance'],
    ['a model nobody serves', { model: 'flux' }, 'not_offered', 'this deployment serves auto, large-turbo, large.'],
    ['a model on the other route', { model: 'large', route: 'turbo' }, 'not_offered', 'route turbo, model large'],
    ['a size too large for all', { size: { width: 4096, height: 4096 } }, 'not_offered', 'size 4096x4096'],
  ]
  test.for(refused)('%s is refused', ([, request, code, message], { expect }) => {
    expect(() => choose(request)).toThrow(expect.objectContaining({ code, message: expect.stringContaining(message) }))
  })

  test('text to be drawn is never given to a tier without T5', ({ expect }) => {
    const prompt = 'a sign "OPEN"'
    expect(() =>
      choose({ prompt }, [
        { ...turbo, ...lite },
        { ...full, ...lite },
      ]),
    ).toThrow('Nothing here serves')
    expect(choose({ prompt }, [{ ...full, ...lite }, turbo])).toMatchObject({ route: 'turbo', tier: 'fp8' })
  })
})

describe('the guards of a request', () => {
  const size = { width: 1024, height: 1024 }
  const estimateCost = (decision: ReturnType<typeof choose>) => price({ ...decision, count: 1 })

  test('that exclude nothing change nothing', ({ expect }) => {
    expect(choose({ size, maxCost: 1_000_000, maxLatencyMs: 60_000 })).toEqual(choose({ size }))
  })

  test('choose a cheaper tier, but not another route than the requested one', ({ expect }) => {
    const wished = { route: 'full', prompt: 'a sign "OPEN"', size } as const
    const dear = choose({ ...wished, tier: 'fp16' })
    const offers = [{ ...full, ...half }, full, turbo]
    expect(choose({ ...wished, maxCost: estimateCost(dear) - 1 }, offers)).toMatchObject({
      ...{ route: 'full', tier: 'fp8' },
      reason: expect.stringContaining('full/fp16 costs $'),
    })
    expect(() => choose({ ...wished, maxCost: 1 }, offers)).toThrow(
      expect.objectContaining({ code: 'max_cost_exceeded', message: expect.stringContaining('max_cost is $0.000001') }),
    )
  })

  test('do not exclude an unmeasured latency, as the reason states', ({ expect }) => {
    const offers = [{ ...full, ...half }]
    expect(choose({ route: 'full', maxLatencyMs: 1 }, offers).reason).toMatch(/could not be checked\.$/)
  })

  test('prefer measured offers that are fast enough to unmeasured ones', ({ expect }) => {
    const offers = [{ ...full, ...half }, full]
    const chosen = choose({ route: 'full', maxLatencyMs: 30_000 }, offers)
    expect(chosen).toMatchObject({ tier: 'fp8', reason: expect.stringContaining('full/fp16 has not run here yet, so') })
  })

  test('exclude a measured latency above the limit', ({ expect }) => {
    const hurried = choose({ negativePrompt: 'blurry', maxLatencyMs: 1500 })
    expect(hurried).toMatchObject({ route: 'turbo', tier: 'fp8-lite' })
    expect(hurried.reason).toMatch(/full\/fp8-lite takes longer than max_latency_ms, so turbo\/fp8-lite serves it\.$/)
    expect(() => choose({ route: 'turbo', maxLatencyMs: 500 })).toThrow(
      expect.objectContaining({ code: 'max_latency_exceeded', message: expect.stringContaining('up to 1000 ms here') }),
    )
  })
})

test.for([
  ['a sign that says "OPEN"', true],
  ["a shop named 'Bakery'.", true],
  ['«Привет» на стене', true],
  ['„Guten Tag“ an der Wand', true],
  ["a dog's bone and the cats' toys", false],
  ['5" nail', false],
  ['an open sign', false],
] as const)('whether %s asks for text: %s', ([prompt, asked], { expect }) => {
  expect(requestsText(prompt)).toBe(asked)
})

describe('the catalog', () => {
  const GPU_URL = 'https://gpu.test'
  test('is read from JSON text or a table, with GPU_URL as the default endpoint', ({ expect }) => {
    const { endpoint: _, ...offer } = turbo
    const table = { offers: [offer], endpoints: { b: 'https://b.test' } }
    const expected = { endpoints: { default: GPU_URL, b: 'https://b.test' }, offers: [turbo] }
    expect(createConfigWith({ OCTET_CATALOG: table, GPU_URL }).catalog).toEqual(expected)
    expect(createConfigWith({ OCTET_CATALOG: JSON.stringify(table), GPU_URL }).catalog).toEqual(expected)
  })

  test.for([
    [{ offers: [] }, 'offers'],
    [{ offers: [{ ...turbo, guidance_scale: 3 }] }, 'the turbo route runs at guidance_scale 1'],
    [{ offers: [{ ...turbo, endpoint: 'nowhere' }] }, 'endpoint "nowhere" is not defined; defined are default'],
    [{ offers: [{ ...turbo, speed: 9 }] }, 'speed'],
  ] as const)('%j is refused', ([table, message], { expect }) => {
    expect(() => createConfigWith({ OCTET_CATALOG: table, GPU_URL }).catalog).toThrow(message)
  })
})

test('a side above the maximum of an offer is not served by it, regardless of the number of pixels', ({ expect }) => {
  const wide = { size: { width: 4096, height: 64 } }
  expect(() => choose(wide)).toThrow(
    'Nothing here serves route turbo, size 4096x64; there is turbo/large-turbo/fp8-lite up to 1048576 pixels and a side of 1536',
  )
  expect(choose(wide, [...catalog.offers, { ...full, model: 'wide', max_side: 4096 }]).model).toBe('wide')
})

test('the price increases from a base with pixels, steps, images, guidance and precision', ({ expect }) => {
  const work = { tier: 'fp8', width: 1000, height: 1000, steps: 4, guidanceScale: 1, count: 1 } as const
  expect(price(work)).toBe(200 + 4 * 300)
  expect(price({ ...work, count: 3 })).toBe(200 + 3 * 4 * 300)
  expect(price({ ...work, guidanceScale: 4.5 })).toBe(200 + 2 * 4 * 300)
  expect(price({ ...work, sampler: 'heun' })).toBe(200 + 7 * 300)
  expect(price({ ...work, tier: 'fp16' })).toBe(200 + 4 * 480)
  expect(Number.isInteger(price({ ...work, width: 16, height: 16, steps: 1 }))).toBe(true)
})

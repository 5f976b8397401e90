// Adapters and tiers. 4-bit weights cannot be updated, so an adapter is offered in a tier with 4-bit weights only if the catalog names the
// tier.
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, test, vi } from 'vitest'
import { findProblems } from '../../../edge/config.ts'
import { type Caller, generate, newCaller, problemOf, send } from '../support/client.ts'
import { fakeGpu, type SeenRequest, works } from '../support/fake-gpu.ts'

const variables = env as unknown as Record<string, unknown>
const before = variables.OCTET_CATALOG
const offer = { model: 'tiny', width: 256, height: 256, max_pixels: 1024 ** 2 }
const turbo = { ...offer, route: 'turbo', steps: 4, guidance_scale: 1 }
const full = { ...offer, route: 'full', steps: 28, guidance_scale: 4.5 }
/** The tier with 4-bit weights is the best offer of either route, and the only one of the model `small`. */
const offers = [
  { ...turbo, tier: 'fp8-int4' },
  { ...turbo, tier: 'fp8' },
  { ...full, tier: 'fp8-int4' },
  { ...turbo, model: 'small', tier: 'fp8-int4' },
]
const loras = [
  { id: 'ink', models: ['tiny'] },
  { id: 'attention', models: ['tiny', 'tiny:fp8-int4', 'small:fp8-int4'] },
  { id: 'only', models: ['tiny:fp8-int4'] },
]
const withLoras = (given: unknown) => JSON.stringify({ ...JSON.parse(String(before)), offers, loras: given })

let caller: Caller
let gpu: SeenRequest[]
beforeEach(async () => {
  caller = await newCaller()
  variables.OCTET_CATALOG = withLoras(loras)
  gpu = fakeGpu(works)
})
afterEach(() => {
  variables.OCTET_CATALOG = before
  vi.restoreAllMocks()
})

const choose = (...ids: string[]) => ids.map((id) => ({ id }))

test('routes a request to a tier compatible with its adapters', async ({ expect }) => {
  for (const chosen of [[], choose('ink'), choose('attention'), choose('ink', 'attention'), choose('only')])
    await generate(caller, { prompt: 'a cat', ...(chosen.length > 0 && { loras: chosen }) })
  expect(gpu.map(({ request }) => request.tier)).toEqual(['fp8-int4', 'fp8', 'fp8-int4', 'fp8', 'fp8-int4'])
})

test.for([
  [{ tier: 'fp8-int4', loras: choose('ink') }, 'loras are for tiny in tier fp8, not for tier "fp8-int4".'],
  [
    { model: 'tiny', tier: 'fp8-int4', loras: choose('attention', 'ink') },
    'loras are for tiny in tier fp8, not for tier "fp8-int4".',
  ],
  [{ tier: 'fp8', loras: choose('only') }, 'loras are for tiny in tier fp8-int4, not for tier "fp8".'],
  [
    { loras: choose('ink', 'only') },
    'loras have no tier in common: ink is for tiny in tier fp8; only is for tiny in tier fp8-int4.',
  ],
  [{ model: 'small', loras: choose('ink') }, 'loras are for tiny, not for "small".'],
] as const)('refuses %j before it is charged or sent to a GPU', async ([fields, message], { expect }) => {
  for (const path of ['/v1/images/generations', '/v1/quote', '/v1/jobs']) {
    const response = await send('POST', path, caller, { prompt: 'a cat', ...fields })
    expect([path, response.status]).toEqual([path, 400])
    expect((await problemOf(response)).error).toMatchObject({ code: 'invalid_request', param: 'loras', message })
  }
  const usage = (await (await send('GET', '/v1/usage', caller)).json()) as { total_microdollars: number }
  expect([gpu, usage.total_microdollars]).toEqual([[], 0])
})

test('rejects a route without an offer compatible with the adapters', async ({ expect }) => {
  const response = await generate(caller, { prompt: 'a cat', route: 'full', loras: choose('ink') })
  expect((await problemOf(response)).error).toMatchObject({
    code: 'not_offered',
    message: expect.stringMatching(/^Nothing here serves route full with these loras; there is turbo\/tiny\/fp8 /),
  })
  expect(gpu).toEqual([])
})

test('lists adapters with the compatible tiers of the model', async ({ expect }) => {
  const { data } = (await (await send('GET', '/v1/models', caller)).json()) as {
    data: { id: string; octet_loras: { id: string; models: string[]; tiers: string[] }[] }[]
  }
  const listed = data.map(({ id, octet_loras }) => [
    id,
    octet_loras.map(({ id, models, tiers }) => ({ id, models, tiers })),
  ])
  const attention = { id: 'attention', models: ['tiny', 'small'] }
  expect(Object.fromEntries(listed)).toEqual({
    tiny: [
      { id: 'ink', models: ['tiny'], tiers: ['fp8'] },
      { ...attention, tiers: ['fp8-int4', 'fp8'] },
      { id: 'only', models: ['tiny'], tiers: ['fp8-int4'] },
    ],
    small: [{ ...attention, tiers: ['fp8-int4'] }],
  })
})

test.for([
  [{ id: 'ink', models: ['small'] }, /lora ink is for small, .* only with 4-bit weights; name small:fp8-int4 if/],
  [{ id: 'ink', models: ['tiny:fp16'] }, /lora ink is for tiny:fp16, which is not offered/],
  [{ id: 'ink', models: ['tiny:int4'] }, /must be model or model:tier, where tier is one of fp8, /],
] as const)('the catalog refuses %j', ([given, message], { expect }) => {
  const problems = findProblems({ ...env, OCTET_CATALOG: withLoras([given]) } as unknown as Parameters<
    typeof findProblems
  >[0])
  expect(JSON.stringify(problems)).toMatch(message)
})

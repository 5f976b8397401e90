// How a request chooses the sampling of its images, in the native API and in other APIs.
import { createExecutionContext } from 'cloudflare:test'
import { afterEach, describe, test, vi } from 'vitest'
import { imageOptionFields } from '#contract'
import { app } from '../../../edge/app.ts'
import { generation } from '../../../edge/requests/generation-request.ts'
import { ledgerOf, newCaller, ORIGIN, problemOf, readJob, send } from '../support/client.ts'
import { createEnvWith } from '../support/config.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

const cat = { prompt: 'a cat', route: 'full', size: '64x64' }

describe('the native fields', () => {
  test('reach the GPU function, and the price of the job is that of its evaluations', async ({ expect }) => {
    const calls = fakeGpu(works)
    const caller = await newCaller()
    const choice = { sampler: 'heun', noise_schedule: 'sgm_uniform', shift: 5 }
    const body = { ...cat, ...choice, size: '256x256', steps: 10, guidance_scale: 4 }
    const quoted = await send('POST', '/v1/quote', caller, body)
    const job = await readJob(await send('POST', '/v1/jobs', caller, body))
    await waitForEnd(job)
    expect(calls[0]!.request).toMatchObject({ ...choice, steps: 10 })
    // 2 evaluations for each of 19 runs.
    const price = 200 + Math.ceil(0.256 ** 2 * 38 * 300)
    expect(await quoted.json()).toMatchObject({ price_microdollars: price })
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: price })
  })

  test('are absent from the request to the GPU function unless given, except the sampler', async ({ expect }) => {
    const calls = fakeGpu(works)
    await waitForEnd(await readJob(await send('POST', '/v1/jobs', await newCaller(), cat)))
    for (const name of Object.keys(imageOptionFields))
      if (name !== 'sampler') expect(calls[0]!.request).not.toHaveProperty(name)
    // The GPU function must run the sampler on which the price is based.
    expect(calls[0]!.request).toMatchObject({ sampler: 'euler' })
  })

  test('custom noise levels state the number of steps', async ({ expect }) => {
    const calls = fakeGpu(works)
    const body = { ...cat, sigmas: [1, 0.6, 0.2] }
    const job = await readJob(await send('POST', '/v1/jobs', await newCaller(), body))
    await waitForEnd(job)
    expect(calls[0]!.request).toMatchObject({ sigmas: [1, 0.6, 0.2], steps: 3 })
  })

  test('guidance runs in its interval, and the evaluations of skip-layer guidance are priced', async ({ expect }) => {
    const calls = fakeGpu(works)
    const caller = await newCaller()
    const full = { ...cat, size: '960x960', steps: 20, guidance_scale: 4 }
    const computePrice = async (fields: object) => {
      const quote = await send('POST', '/v1/quote', caller, { ...full, ...fields })
      return (((await quote.json()) as { price_microdollars: number }).price_microdollars - 200) / 300 / 0.96 ** 2
    }
    expect(await computePrice({})).toBeCloseTo(40, 1)
    expect(await computePrice({ guidance_interval: { stop: 0.5 } })).toBeCloseTo(30, 1)
    // Steps 1, 2 and 3 of 20 are after 0.2 and before 4.
    expect(await computePrice({ skip_layer_guidance: true })).toBeCloseTo(43, 1)
    const both = { guidance_interval: { start: 0.1 }, skip_layer_guidance: { start: 0, stop: 0.3, layers: [1] } }
    expect(await computePrice(both)).toBeCloseTo(20 + 18 + 4, 1)
    await waitForEnd(await readJob(await send('POST', '/v1/jobs', caller, { ...cat, guidance_scale: 4, ...both })))
    expect(calls[0]!.request).toMatchObject({
      guidance_interval: { start: 0.1, stop: 1 },
      skip_layer_guidance: { scale: 2.5, start: 0, stop: 0.3, layers: [1] },
    })
  })

  test('choose the full route for guidance, and have no effect on turbo', async ({ expect }) => {
    const calls = fakeGpu(works)
    const caller = await newCaller()
    const fields = { prompt: 'a cat', size: '64x64', guidance_interval: {}, skip_layer_guidance: true }
    const quote = await send('POST', '/v1/quote', caller, fields)
    const reason = 'The full route has guidance, required for guidance_interval and skip_layer_guidance.'
    expect(await quote.json()).toMatchObject({ route: 'full', reason })
    const job = await readJob(
      await send('POST', '/v1/jobs', caller, { ...fields, route: 'turbo', negative_prompt: 'fog' }),
    )
    await waitForEnd(job)
    const read = await send('GET', `/v1/jobs/${job.id}`, caller)
    const { warnings } = (await read.json()) as { warnings: { code: string }[] }
    const codes = ['guidance_interval_ignored', 'skip_layer_guidance_ignored', 'negative_prompt_ignored']
    expect(warnings.map(({ code }) => code).toSorted()).toEqual(codes.toSorted())
    for (const name of ['guidance_interval', 'skip_layer_guidance']) expect(calls[0]!.request).not.toHaveProperty(name)
  })

  test('step caching chooses the full route, costs its evaluations, and is stated in job and files', async ({
    expect,
  }) => {
    const calls = fakeGpu(works)
    const caller = await newCaller()
    const fields = { prompt: 'a cat', size: '64x64', steps: 28, seed: 1 }
    const computePrice = async (more: object) => {
      const quote = await send('POST', '/v1/quote', caller, { ...fields, size: '960x960', guidance_scale: 4, ...more })
      return (((await quote.json()) as { price_microdollars: number }).price_microdollars - 200) / 300 / 0.96 ** 2
    }
    expect(await computePrice({})).toBeCloseTo(56, 1)
    expect(await computePrice({ cache: 'off' })).toBeCloseTo(56, 1)
    expect(await computePrice({ cache: 'fast' })).toBeCloseTo(34, 1)
    expect(await computePrice({ cache: 'fast', guidance_interval: { stop: 0.5 } })).toBeLessThan(34)
    const job = await readJob(await send('POST', '/v1/jobs', caller, { ...fields, cache: 'fast' }))
    await waitForEnd(job)
    const read = (await (await send('GET', `/v1/jobs/${job.id}`, caller)).json()) as Record<string, unknown>
    expect(read).toMatchObject({
      route: 'full',
      reason: 'The full route has step caching, required for cache.',
      warnings: [{ code: 'steps_cached', message: expect.stringContaining('11 of 28 steps') }],
    })
    expect(calls[0]!.request).toMatchObject({ cache: 'fast', steps: 28 })
    await waitForEnd(await readJob(await send('POST', '/v1/jobs', caller, { ...fields, cache: 'off' })))
    expect(calls[1]!.request).not.toHaveProperty('cache')
  })

  test('step caching without a step to reuse is a warning', async ({ expect }) => {
    fakeGpu(works)
    const caller = await newCaller()
    const image = `data:image/png;base64,${'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='}`
    const fields = { ...cat, steps: 28, image, strength: 0.1, cache: 'fast' }
    const job = await readJob(await send('POST', '/v1/jobs', caller, fields))
    const { warnings } = (await (await send('GET', `/v1/jobs/${job.id}`, caller)).json()) as { warnings: unknown[] }
    const message = 'cache had no effect: none of the 3 steps of this request can be reused.'
    expect(warnings).toEqual([{ code: 'cache_ignored', message }])
  })

  test("OpenAI's, fal's and Replicate's routes take the field cache", async ({ expect }) => {
    const calls = fakeGpu(works)
    const caller = await newCaller()
    const fields = { prompt: 'a cat', cache: 'fast' }
    const prefer = { prefer: 'wait=30' }
    await send('POST', '/v1/images/generations', caller, { ...fields, steps: 28 })
    await send('POST', '/fal/run/octet/tiny', caller, { ...fields, num_inference_steps: 28 }, prefer)
    const input = { ...fields, num_inference_steps: 28 }
    await send('POST', '/v1/predictions', caller, { input, version: 'tiny' }, prefer)
    expect(calls.map(({ request }) => request.cache)).toEqual(['fast', 'fast', 'fast'])
  })

  test('have the values of the contract', ({ expect }) => {
    expect(Object.keys(generation.shape)).toEqual(expect.arrayContaining(Object.keys(imageOptionFields)))
  })

  test.for([
    [{ sampler: 'ddim' }, 'sampler is "ddim"; it must be one of euler, dpmpp_2m, heun, lcm.'],
    [{ noise_schedule: 'karras' }, 'noise_schedule is "karras"; it must be one of normal, simple, sgm_uniform, beta.'],
    [{ shift: 0 }, 'shift is 0; it must be a number from 0.01 to 100.'],
    [{ sigmas: [0.5, 0.5] }, 'sigmas must decrease at every step.'],
    [
      { sigmas: [1, 0] },
      'sigmas is [1,0]; it must be a list of 1 to 200 decreasing numbers, above 0 and at most 1, one for each step.',
    ],
    [{ cache: true }, 'cache is true; it must be one of off, fast.'],
    [
      { cache: 'fast', route: 'turbo' },
      'cache is "fast", but the turbo route has no step caching; leave it out or choose route "full".',
    ],
    [
      { cache: 'fast', route: 'auto', quality: 'low' },
      'cache is "fast", but the turbo route has no step caching; leave it out or choose route "full".',
    ],
    [
      { cache: 'fast', steps: 30, sampler: 'lcm' },
      'cache is "fast", but sampler is "lcm"; with cache it must be euler, dpmpp_2m or heun.',
    ],
    [{ cache: 'fast', steps: 27 }, 'cache is "fast", but steps is 27; with cache it must be at least 28.'],
    [{ sigmas: [1, 0.5], steps: 3 }, 'sigmas has 2 levels, but steps is 3; leave one of them out.'],
    [{ sigmas: [1], noise_schedule: 'beta' }, 'sigmas and noise_schedule are both given; use one of them.'],
    [
      { noise_schedule: 'beta', steps: 101 },
      'steps is 101; noise_schedule beta has at most 100. Use fewer steps or another one.',
    ],
  ] as const)('%j is refused', async ([fields, message], { expect }) => {
    const response = await send('POST', '/v1/quote', await newCaller(), { ...cat, ...fields })
    expect(response.status).toBe(400)
    const { detail } = await problemOf(response)
    expect(detail).toBe(message)
  })
})

describe("an offer's sampler", () => {
  const offer = { route: 'full', model: 'custom', tier: 'fp8', steps: 28, guidance_scale: 4 }
  const size = { width: 256, height: 256, max_pixels: 256 * 256 }

  /** Quote for a request with step caching on an offer with this sampler. */
  async function quoteOf(sampler: string | undefined, fields: object = {}): Promise<Response> {
    const { headers } = await newCaller()
    const OCTET_CATALOG = JSON.stringify({ offers: [{ ...offer, ...size, sampler }] })
    const body = JSON.stringify({ prompt: 'a cat', cache: 'fast', ...fields })
    const init = { method: 'POST', headers: { ...headers, 'content-type': 'application/json' }, body }
    const context = createExecutionContext()
    return app.fetch(new Request(new URL('/v1/quote', ORIGIN), init), createEnvWith({ OCTET_CATALOG }), context)
  }

  test.for([
    [undefined, {}, 34],
    ['euler', {}, 34],
    ['dpmpp_2m', {}, 34],
    ['heun', {}, 66],
    ['heun', { sampler: 'euler' }, 34],
    ['euler', { sampler: 'heun' }, 66],
    ['heun', { cache: 'off' }, 110],
    ['lcm', { cache: 'off' }, 56],
  ] as const)('%s of the offer, with %j, is priced as %d evaluations', async ([sampler, fields, count], { expect }) => {
    const price = 200 + Math.ceil(0.256 ** 2 * count * 300)
    expect(await (await quoteOf(sampler, fields)).json()).toMatchObject({ price_microdollars: price })
  })

  test('lcm of the offer is refused with step caching', async ({ expect }) => {
    const response = await quoteOf('lcm')
    expect(response.status).toBe(400)
    expect((await problemOf(response)).detail).toContain('cache is "fast", but sampler is "lcm"')
  })
})

describe('the names of other APIs', () => {
  const [EULER, DPMPP] = [{ sampler: 'euler' }, { sampler: 'dpmpp_2m' }]
  const lists = { name: 'replicate', path: '/v1/predictions', body: (input: object) => ({ input, version: 'tiny' }) }
  const direct = { name: 'fal', path: '/fal/run/octet/tiny', body: (input: object) => input }
  const partOf = (name: string, used: string) => `scheduler is "${name}", of which only the ${used} has an effect here.`
  test.for([
    [direct, { scheduler: 'DPM++ 2M' }, DPMPP, []],
    [direct, { scheduler: 'DPM++ 2M SGM Uniform' }, { ...DPMPP, noise_schedule: 'sgm_uniform' }, []],
    [direct, { scheduler: 'Euler (normal)' }, { ...EULER, noise_schedule: 'normal' }, []],
    [lists, { scheduler: 'K_EULER' }, EULER, []],
    [lists, { scheduler: 'FlowMatchHeunDiscreteScheduler' }, { sampler: 'heun' }, []],
    [lists, { sampler: 'dpmpp_2m', schedule: 'simple' }, { ...DPMPP, noise_schedule: 'simple' }, []],
    [lists, { scheduler: 'K_EULER_ANCESTRAL' }, {}, ['scheduler is "K_EULER_ANCESTRAL", which has no effect here.']],
    [direct, { scheduler: 'DPM++ 2M Karras' }, DPMPP, [partOf('DPM++ 2M Karras', 'sampler')]],
    [lists, { scheduler: 'DDIM Beta' }, { noise_schedule: 'beta' }, [partOf('DDIM Beta', 'noise schedule')]],
    [direct, { sigmas: [1, 0.5], shift: 2 }, { sigmas: [1, 0.5], shift: 2 }, []],
  ] as const)('%j', async ([api, input, fields, warnings], { expect }) => {
    const calls = fakeGpu(works)
    const caller = await newCaller()
    const response = await send('POST', api.path, caller, api.body({ prompt: 'a cat', ...input }), {
      prefer: 'wait=30',
    })
    expect(response.ok).toBe(true)
    const { sampler, noise_schedule, sigmas, shift } = calls[0]!.request
    expect(JSON.parse(JSON.stringify({ sampler, noise_schedule, sigmas, shift }))).toEqual({ ...EULER, ...fields })
    const jobs = (await (await send('GET', '/v1/jobs', caller)).json()) as {
      data: { warnings: { message: string }[] }[]
    }
    expect(jobs.data[0]!.warnings.map(({ message }) => message)).toEqual(warnings)
  })

  test('an unknown name is refused with the list of known names', async ({ expect }) => {
    const response = await send(
      'POST',
      lists.path,
      await newCaller(),
      lists.body({ prompt: 'a cat', scheduler: 'Oiler' }),
    )
    const message =
      'scheduler is "Oiler"; it must be one of Euler, DPM++ 2M, Heun, LCM, Normal, Simple, SGM Uniform, Beta.'
    expect([response.status, await response.json()]).toEqual([400, expect.objectContaining({ detail: message })])
  })
})

import { env } from 'cloudflare:workers'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { countRunSteps, LIMITS } from '#contract'
import { sha256 } from '../../../edge/auth/keys.ts'
import { price } from '../../../edge/routing/price.ts'
import { type Caller, fetchWorker, generate, newCaller, send } from '../support/client.ts'
import { fakeGpu, refuses, works } from '../support/fake-gpu.ts'

/** The beginning of a valid PNG, which is all that the worker reads, and arbitrary bytes. */
const pngOf = (text: string, bytes = 64) => {
  const file = new Uint8Array(bytes)
  file.set([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
  file.set(new TextEncoder().encode(text), 8)
  return file
}
const IMAGE = pngOf('image')
const MASK = pngOf('mask')
const FIELDS = { prompt: 'a red heart', seed: 7, response_format: 'b64_json' }

let caller: Caller
beforeEach(async () => {
  caller = await newCaller()
})

const listStoredInputs = async () => (await env.RESULTS.list({ prefix: `inputs/${caller.account}/` })).objects.length

const jobOf = async (response: Response) => ((await response.json()) as { octet: { job: string } }).octet.job
const problemOf = async (response: Response) =>
  (await response.json()) as { detail: string; errors?: { param: string }[] }

test('sends image and mask to the GPU after the request, and deletes them at the end of the job', async () => {
  const calls = fakeGpu(async (seen) => {
    expect(await listStoredInputs()).toBe(2)
    return works(seen)
  })
  const body = { ...FIELDS, image: `data:image/png;base64,${IMAGE.toBase64()}`, mask: MASK.toBase64(), strength: 0.5 }
  const response = await generate(caller, { ...body, image_fit: 'pad', repaint: 'black', mask_feather: 3 })
  expect(response.status).toBe(200)
  expect(calls[0]!.files).toEqual([IMAGE, MASK])
  expect(calls[0]!.request).toMatchObject({ strength: 0.5, image_fit: 'pad', repaint: 'black', mask_feather: 3 })
  expect(calls[0]!.request.inputs).toEqual([
    { name: 'image', bytes: 64, sha256: await sha256(IMAGE) },
    { name: 'mask', bytes: 64, sha256: await sha256(MASK) },
  ])
  expect(await listStoredInputs()).toBe(0)
})

test('repeats the files with each attempt, and deletes them when the job fails', async () => {
  const calls = fakeGpu(refuses(503, 'loading'), works)
  expect((await generate(caller, { ...FIELDS, image: IMAGE.toBase64() })).status).toBe(200)
  expect(calls.map(({ files }) => files)).toEqual([[IMAGE], [IMAGE]])
  fakeGpu(refuses(400, 'invalid_request'))
  expect((await generate(caller, { ...FIELDS, image: IMAGE.toBase64(), seed: 8 })).status).toBe(500)
  expect(await listStoredInputs()).toBe(0)
})

test('charges only for the steps that run', async () => {
  fakeGpu(works)
  for (const strength of [0.3, 0.6, 1]) {
    const response = await generate(caller, {
      ...FIELDS,
      image: IMAGE.toBase64(),
      strength,
      route: 'full',
      size: '64x64',
    })
    const { octet } = (await response.json()) as { octet: { price_microdollars: number; steps: number; tier: 'fp8' } }
    const work = { width: 64, height: 64, steps: countRunSteps(octet.steps, strength), guidanceScale: 5, count: 1 }
    expect(octet.price_microdollars).toBe(price({ ...work, tier: octet.tier }))
    const quote = await send('POST', '/v1/quote', caller, { ...FIELDS, strength, route: 'full', size: '64x64' })
    expect(await quote.json()).toMatchObject({ price_microdollars: octet.price_microdollars })
  }
})

test('accepts a form, and a blank prompt if there is an image', async () => {
  const calls = fakeGpu(works)
  const form = new FormData()
  const texts = { n: '2', seed: '5', strength: '0.25', preview: 'true', steps: '4', guidance_scale: '3' }
  const structures = { guidance_interval: '{"stop": 0.5}', skip_layer_guidance: '{"layers": [1]}' }
  for (const [name, value] of Object.entries({ ...texts, ...structures })) form.set(name, value)
  form.set('image', new File([IMAGE], 'image.png', { type: 'image/png' }))
  const response = await fetchWorker('/v1/jobs', {
    method: 'POST',
    headers: { ...caller.headers, prefer: 'wait=20' },
    body: form,
  })
  expect(response.status).toBe(200)
  expect(calls[0]!.files).toEqual([IMAGE])
  expect(calls[0]!.request).toMatchObject({ prompt: '', count: 2, seed: 5, strength: 0.25 })
  expect(calls[0]!.request.guidance_interval).toMatchObject({ stop: 0.5 })
  expect(calls[0]!.request.skip_layer_guidance).toMatchObject({ layers: [1] })
})

test('accepts an image of the caller’s own job by id or URL, but not of another account or token', async () => {
  const calls = fakeGpu(works)
  const first = (await (await generate(caller, { ...FIELDS, n: 2, response_format: 'url' })).json()) as {
    data: { url: string; sha256: string }[]
    octet: { job: string }
  }
  const { job } = first.octet
  for (const image of [`${job}/1`, first.data[1]!.url]) {
    expect((await generate(caller, { ...FIELDS, image })).status).toBe(200)
    expect(calls.at(-1)!.request.inputs![0]!.sha256).toBe(first.data[1]!.sha256)
  }
  const stranger = await newCaller()
  const token = await send('POST', '/v1/tokens', caller, { budget_microdollars: 100_000 })
  const { token: secret } = (await token.json()) as { token: string }
  for (const other of [stranger, { headers: { authorization: `Bearer ${secret}` } }]) {
    const response = await generate(other, { ...FIELDS, image: `${job}/0` })
    expect([response.status, (await problemOf(response)).detail]).toEqual([404, expect.stringContaining(`${job}/0`)])
  }
  const absent = await generate(caller, { ...FIELDS, image: `${job}/7` })
  expect(absent.status).toBe(404)
})

test('joins an equal request by the content of its image, and refuses another under the same Idempotency-Key', async () => {
  fakeGpu(works)
  const headers = { 'idempotency-key': 'one' }
  const first = await generate(caller, { ...FIELDS, image: IMAGE.toBase64() }, headers)
  const second = await generate(caller, { ...FIELDS, image: `data:;base64,${IMAGE.toBase64()}` }, headers)
  expect(await jobOf(second)).toBe(await jobOf(first))
  const other = await generate(caller, { ...FIELDS, image: MASK.toBase64() }, headers)
  expect(other.status).toBe(422)
  expect(await listStoredInputs()).toBe(0)
})

describe('an address', () => {
  /** Replies of the internet by address; all other requests are those of the fake GPU. */
  function stubInternet(replies: Record<string, () => Response>) {
    const calls = fakeGpu(works)
    const gpu = vi.mocked(fetch).getMockImplementation()!
    const fetched: string[] = []
    vi.spyOn(globalThis, 'fetch').mockImplementation(async (input, init) => {
      const url = String(input)
      if (!Object.hasOwn(replies, url)) return gpu(input, init)
      fetched.push(url)
      return replies[url]!()
    })
    return { calls, fetched }
  }

  test('is fetched, through redirects to public hosts', async () => {
    const { calls, fetched } = stubInternet({
      'https://images.example.com/a': () => new Response(null, { status: 302, headers: { location: '/b.png' } }),
      'https://images.example.com/b.png': () => new Response(IMAGE),
    })
    expect((await generate(caller, { ...FIELDS, image: 'https://images.example.com/a' })).status).toBe(200)
    expect(calls[0]!.files).toEqual([IMAGE])
    expect(fetched).toHaveLength(2)
  })

  test.each([
    ['https://127.0.0.1/a.png', /must name a host, not an IP address/],
    ['http://images.example.com/a.png', /must start with https/],
    ['https://metadata.internal/a.png', /must name a public host/],
    ['https://images.example.com/private', /"https:\/\/10\.0\.0\.1\/"; it must name a host/],
    ['https://images.example.com/absent', /status 404/],
    ['https://images.example.com/html', /the file is SVG, XML or HTML/],
    ['https://images.example.com/endless', new RegExp(`exceeds the limit of ${LIMITS.inputBytes} bytes`)],
    ['https://images.example.com/loop', /redirected more than 3 times/],
  ])('%s is refused', async (image, message) => {
    const { calls } = stubInternet({
      'https://images.example.com/private': () => Response.redirect('https://10.0.0.1/'),
      'https://images.example.com/absent': () => new Response('no', { status: 404 }),
      'https://images.example.com/html': () => new Response('<!doctype html>'),
      'https://images.example.com/endless': () =>
        new Response(new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(2 ** 20)) })),
      'https://images.example.com/loop': () => Response.redirect('https://images.example.com/loop'),
    })
    const response = await generate(caller, { ...FIELDS, image })
    expect(response.status).toBe(400)
    expect((await problemOf(response)).detail).toMatch(message)
    expect(calls).toHaveLength(0)
  })
})

test.each([
  [{ image: '' }, /image is ""; it must be base64/],
  [{ image: 'no image!' }, /image is not an image; it must be base64/],
  [
    { image: btoa('<svg xmlns="http://www.w3.org/2000/svg"/>') },
    /SVG, XML or HTML; allowed: PNG, JPEG, WebP, GIF, AVIF/,
  ],
  [{ image: btoa('II*\0') }, /TIFF/],
  [{ mask: MASK.toBase64() }, /^mask was given without an image: give both or neither\.$/],
  [{ strength: 0.5 }, /^strength was given without an image/],
  [{ image: IMAGE.toBase64(), strength: 0 }, /strength is 0; it must be a number from 0.01 to 1/],
  [{ image: IMAGE.toBase64(), mask_feather: 2 }, /^mask_feather was given without a mask/],
  [{ image: IMAGE.toBase64(), image_fit: 'zoom' }, /image_fit is "zoom"; it must be one of crop, pad, stretch/],
])('refuses %j', async (change, message) => {
  const calls = fakeGpu(works)
  const response = await send('POST', '/v1/jobs', caller, { ...FIELDS, ...change })
  expect(response.status).toBe(400)
  expect((await problemOf(response)).detail).toMatch(message)
  expect(calls).toHaveLength(0)
})

test('accepts a large body only with an image', async () => {
  fakeGpu(works)
  const large = pngOf('large', LIMITS.requestBytes)
  expect((await generate(caller, { ...FIELDS, image: large.toBase64() })).status).toBe(200)
  expect((await generate(caller, { ...FIELDS, user: large.toBase64() })).status).toBe(413)
})

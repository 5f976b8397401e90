// Headers of every response, including errors.
import { env } from 'cloudflare:workers'
import { afterEach, test, vi } from 'vitest'
import { fetchWorker, generate, generatedOf, newCaller, send } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

test('every reply requires HTTPS, forbids MIME sniffing, and is not cached by default', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu(works)
  const image = await generate(caller, { prompt: 'a cat' })
  const { data, octet } = await generatedOf(image)
  const file = data[0]!.url!
  const get = (path: string, headers: Record<string, string> = caller.headers, method = 'GET') =>
    fetchWorker(path, { method, headers })
  const [whole, head] = [await get(file), await get(file, {}, 'HEAD')]
  const broken = vi.spyOn(env.OUTER_LIMIT, 'limit').mockRejectedValueOnce(new Error('secret detail'))
  const fault = await get('/v1/models')
  broken.mockRestore()
  const kept = [
    whole,
    head,
    await get(file, { 'if-none-match': whole.headers.get('etag')! }),
    await get('/.well-known/jwks.json'),
  ]
  const others = [
    image,
    fault,
    await get('/healthz'),
    await get('/v1/models'),
    await get('/v1/jobs'),
    await get(`/v1/jobs/${octet.job}/events`),
    await get('/v1/models', {}),
    await get('/v1/nothing'),
    await get('/v1/models', {}, 'DELETE'),
    await get('/v1/models', { origin: 'https://a.example', 'access-control-request-method': 'GET' }, 'OPTIONS'),
    await get(`/v1/models?${'x'.repeat(9000)}`),
    await send('POST', '/v1/jobs', caller, { prompt: 'x'.repeat(300_000) }),
    await send('POST', '/v1/images/generations', caller, {}),
    await send('DELETE', `/v1/jobs/${octet.job}/images`, caller),
  ]
  const status = others.map((response) => response.status)
  expect(status).toEqual([200, 500, 200, 200, 200, 200, 401, 404, 405, 204, 414, 413, 400, 204])
  expect(await fault.text()).not.toContain('secret detail')
  for (const response of [...kept, ...others]) {
    expect(Object.fromEntries(response.headers), response.url).toMatchObject({
      'strict-transport-security': 'max-age=31536000',
      'x-content-type-options': 'nosniff',
      'x-frame-options': 'DENY',
      'referrer-policy': 'no-referrer',
      'cache-control': kept.includes(response) ? expect.stringMatching(/^(private|public), max-age=/) : 'no-store',
    })
    if (!response.bodyUsed) await response.body?.cancel()
  }
})

// Signed links of the event stream, for EventSource, and of the images in its events.
import { env } from 'cloudflare:workers'
import { afterEach, test, vi } from 'vitest'
import { fetchWorker, newCaller, problemOf, send } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

const submit = async () => {
  const caller = await newCaller()
  fakeGpu(works)
  const response = await send('POST', '/v1/jobs', caller, { prompt: 'a cat' })
  const { id, events_url } = (await response.json()) as { id: string; events_url: string }
  await waitForEnd({ id })
  return { caller, id, link: new URL(events_url) }
}

test('a link grants access to the events of its job and their images, without a key', async ({ expect }) => {
  const { link } = await submit()
  const response = await fetchWorker(link.href)
  const text = await response.text()
  expect([response.status, text]).toEqual([200, expect.stringContaining('event: succeeded')])
  const { images } = JSON.parse(/^data: (.*"type":"succeeded".*)$/m.exec(text)![1]!) as { images: { url: string }[] }
  const file = await fetchWorker(images[0]!.url)
  expect([file.status, file.headers.get('content-type')]).toEqual([200, 'image/png'])
})

test('a link grants access to nothing else', async ({ expect }) => {
  const [mine, other] = [await submit(), await submit()]
  const paths = [`/v1/jobs/${other.id}/events`, `/v1/jobs/${mine.id}`, `/v1/jobs/${mine.id}/receipts`]
  const found = await Promise.all(paths.map((path) => fetchWorker(path + mine.link.search)))
  expect(await Promise.all(found.map(async (each) => [each.status, (await problemOf(each)).error.code]))).toEqual([
    [403, 'link_invalid'],
    [401, 'invalid_api_key'],
    [401, 'invalid_api_key'],
  ])
})

test('a link becomes invalid with its key', async ({ expect }) => {
  const { caller, link } = await submit()
  await env.ACCOUNT.getByName(caller.account).revokeKey(caller.keyId, null)
  const response = await fetchWorker(link.href)
  expect([response.status, (await problemOf(response)).error.code]).toEqual([403, 'link_revoked'])
})

test('a browser may read the headers that it needs, and caches the preflight', async ({ expect }) => {
  const { caller } = await submit()
  const origin = { origin: 'https://page.example' }
  const response = await fetchWorker('/v1/models', { headers: { ...caller.headers, ...origin } })
  const exposed = response.headers.get('access-control-expose-headers')?.split(',') ?? []
  const needed = ['location', 'etag', 'content-range', 'content-disposition', 'preference-applied']
  expect(exposed).toEqual(expect.arrayContaining(needed))
  expect(response.headers.get('cross-origin-resource-policy')).toBe('cross-origin')
  const preflight = await fetchWorker('/v1/jobs', {
    method: 'OPTIONS',
    headers: { ...origin, 'access-control-request-method': 'POST' },
  })
  expect(preflight.headers.get('access-control-max-age')).toBe('7200')
})

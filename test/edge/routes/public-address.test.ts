// A worker behind a proxy that terminates TLS.
import { createExecutionContext, waitOnExecutionContext } from 'cloudflare:test'
import { afterEach, expect, test, vi } from 'vitest'
import { app } from '../../../edge/app.ts'
import { configOf } from '../../../edge/config.ts'
import { newCaller } from '../support/client.ts'
import { createConfigWith, createEnvWith } from '../support/config.ts'
import { fakeGpu, untilCanceled, works } from '../support/fake-gpu.ts'
import { jobOf, waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

const env = createEnvWith({ OCTET_PUBLIC_URL: 'https://images.example.com' })

function request(path: string, headers: Record<string, string>, body: object, signal?: AbortSignal) {
  const context = createExecutionContext()
  const init = {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  }
  const reply = app.fetch(
    new Request(`http://127.0.0.1:8787${path}`, { ...init, ...(signal && { signal }) }),
    env,
    context,
  )
  return { reply: Promise.resolve(reply), ended: () => waitOnExecutionContext(context) }
}

test('links and advice begin with the public address, and links work behind the proxy', async () => {
  fakeGpu(works)
  const { headers } = await newCaller()
  const made = await request('/v1/images/generations', headers, { prompt: 'a cat', response_format: 'url' }).reply
  const { data } = (await made.json()) as { data: { url: string }[] }
  expect(data[0]!.url).toMatch(/^https:\/\/images\.example\.com\/v1\/results\//)
  const inside = data[0]!.url.replace('https://images.example.com', 'http://127.0.0.1:8787')
  const context = createExecutionContext()
  const file = await app.fetch(new Request(inside), env, context)
  expect(file.status).toBe(200)
  await file.arrayBuffer()
  const lost = await request('/images/generations', headers, {}).reply
  expect(await lost.text()).toContain('the base URL is https://images.example.com/v1')
})

test('a disconnect cancels a job with on_disconnect: cancel', async () => {
  const calls = fakeGpu(untilCanceled(1))
  const { headers } = await newCaller()
  const connection = new AbortController()
  const fields = { prompt: 'a cat', on_disconnect: 'cancel' }
  const { reply, ended } = request('/v1/images/generations', headers, fields, connection.signal)
  await vi.waitFor(async () => expect((await jobOf({ id: calls[0]!.job }).view())?.state).toBe('running'))
  connection.abort()
  await ended()
  expect((await waitForEnd({ id: calls[0]!.job })).state).toBe('canceled')
  await reply
})

test.for(['images.example.com', 'https://images.example.com/octet', 'ftp://images.example.com', 'https://a@b.example'])(
  '%s is refused',
  (given) => {
    vi.spyOn(console, 'error').mockImplementation(() => {})
    expect(() => createConfigWith({ OCTET_PUBLIC_URL: given }).publicOrigin).toThrow(
      /OCTET_PUBLIC_URL is .* must be empty, or/,
    )
  },
)

test('without a public address, links begin with the origin of each request', () => {
  expect(createConfigWith({ OCTET_PUBLIC_URL: undefined }).publicOrigin).toBeNull()
  expect(configOf(createEnvWith({ OCTET_PUBLIC_URL: 'https://images.example.com/' })).publicOrigin).toBe(
    'https://images.example.com',
  )
})

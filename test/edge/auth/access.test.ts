// Access rules of every route, enforced before any of the request body is read.
import { createExecutionContext, waitOnExecutionContext } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { LIMITS } from '#contract'
import { AccountDO } from '../../../edge/accounts/account.ts'
import { app } from '../../../edge/app.ts'
import type { Access } from '../../../edge/auth/access.ts'
import { ACCESS } from '../../../edge/routes/access.ts'
import { type Caller, fetchWorker, generate, newCaller, ORIGIN, problemOf, send } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { operator } from '../support/operator.ts'

afterEach(() => vi.restoreAllMocks())

const SCOPES = { scopes: ['generate', 'read', 'admin'] as ('generate' | 'read' | 'admin')[] }
const [LITTLE, CHUNK] = [16 * 1024, 4 * 1024]
/** The largest limit of a body by the kind of its route: one that takes input images, one that verifies a file, any other. */
const largestOf = (path: string, { admits }: Access) =>
  admits ? 12 * 1024 * 1024 : path === '/v1/verify' ? 16 * 1024 * 1024 : LIMITS.requestBytes
const routes = Object.entries(ACCESS).map(([name, access]) => {
  const [method, path] = name.split(' ') as [string, string]
  return { name, method, path: path.replace(/:[a-z]+/g, '0123456789ab'), access }
})
const withBody = routes.filter(({ method }) => ['POST', 'PUT', 'PATCH'].includes(method))
/** Routes that read a request body. */
const readers = withBody.filter(
  ({ path }) =>
    !/\/(prewarm|cancel|test|interrupt|skip|refresh-checkpoints|refresh-loras)$/.test(path) &&
    !path.includes('/deliveries/'),
)

/** Returns a body that is generated on demand, with a count of the bytes read so far. */
function createCountedBody(bytes: number) {
  const seen = { read: 0, canceled: false }
  const chunk = new TextEncoder().encode(' '.repeat(CHUNK))
  const body = new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        if (seen.read >= bytes) return controller.close()
        seen.read += CHUNK
        controller.enqueue(chunk)
      },
      cancel() {
        seen.canceled = true
      },
    },
    { highWaterMark: 0 },
  )
  return { body, seen }
}

/** Calls the app directly, without an intermediate layer that would read the body ahead. */
async function call(method: string, path: string, headers: Record<string, string>, body?: ReadableStream) {
  const context = createExecutionContext()
  const all = { 'content-type': 'application/json', ...headers }
  const request = new Request(new URL(path, ORIGIN), { method, headers: all, ...(body && { body }) })
  const response = await app.fetch(request, env, context)
  await waitOnExecutionContext(context)
  return response
}

async function createRevokedKey(): Promise<Caller> {
  const caller = await newCaller(SCOPES)
  await env.ACCOUNT.getByName(caller.account).revokeKey(caller.keyId)
  return caller
}

/** The error in a response's challenge. It is independent of the dialect, unlike the body. */
const challengeOf = (response: Response) => /error="(\w+)"/.exec(response.headers.get('www-authenticate')!)?.[1] ?? null

const createHeaders = (by: string, caller: Caller): Record<string, string> =>
  by === 'operator' ? operator : caller.headers

describe('the access table', () => {
  test('lists exactly the routes of the app', ({ expect }) => {
    const served = new Set(app.routes.flatMap(({ method, path }) => (method === 'ALL' ? [] : [`${method} ${path}`])))
    expect(Object.keys(ACCESS).toSorted()).toEqual([...served].toSorted())
  })

  test.for(routes.filter(({ access }) => access.by !== 'anyone'))(
    '$name rejects a missing or invalid credential',
    async ({ method, path }, { expect }) => {
      const { key } = await newCaller(SCOPES)
      for (const token of [null, 'x', `${key.slice(0, -3)}000`]) {
        // A new address each time: repeated wrong operator tokens from one address trigger the lockout.
        const address = { 'cf-connecting-ip': crypto.randomUUID() }
        const headers = { ...address, ...(token !== null && { authorization: `Bearer ${token}` }) }
        const { body, seen } = createCountedBody(1024 * 1024)
        const response = await call(method, path, headers, method === 'GET' ? undefined : body)
        expect([response.status, seen.read]).toEqual([401, 0])
      }
    },
  )
})

test.for(routes.filter(({ access }) => ['key', 'link', 'manager'].includes(access.by)))(
  '$name authenticates a key once',
  async ({ method, path }, { expect }) => {
    const caller = await newCaller(SCOPES)
    fakeGpu(works)
    const limits = vi.spyOn(env.OUTER_LIMIT, 'limit')
    const authenticate = vi.spyOn(AccountDO.prototype, 'authenticate')
    const body = method === 'GET' ? undefined : new Blob(['{}']).stream()
    await call(method, path, caller.headers, body)
    expect([limits.mock.calls.length, authenticate.mock.calls.length]).toEqual([1, 1])
  },
)

describe('a revoked key', () => {
  test.for(routes.filter(({ access }) => !['anyone', 'operator'].includes(access.by)))(
    'is rejected by $name before any of the body is read',
    async ({ method, path }, { expect }) => {
      const { headers } = await createRevokedKey()
      const { body, seen } = createCountedBody(1024 * 1024)
      const response = await call(method, path, headers, method === 'GET' ? undefined : body)
      expect([response.status, challengeOf(response), seen.read]).toEqual([401, null, 0])
    },
  )

  test.for([
    ['POST', '/v1/jobs'],
    ['PUT', '/v1/jobs/a-name'],
    ['POST', '/v1/images/generations'],
  ] as const)('always gets 401 from %s %s, even for a small invalid body', async ([method, path], { expect }) => {
    const caller = await createRevokedKey()
    for (const body of [{ prompt: 5 }, { prompt: 'a cat', model: 'none' }, { prompt: 'a cat' }])
      expect((await send(method, path, caller, body)).status).toBe(401)
    const untyped = await send(method, path, caller, { prompt: 'a cat' }, { 'content-type': 'text/plain' })
    expect(untyped.status).toBe(401)
  })
})

describe('scopes', () => {
  test.for(routes.filter(({ access }) => access.scope))(
    '$name requires scope $access.scope',
    async (route, { expect }) => {
      const others = SCOPES.scopes.filter((scope) => scope !== route.access.scope)
      const { headers } = await newCaller({ scopes: others })
      const { body, seen } = createCountedBody(1024 * 1024)
      const response = await call(route.method, route.path, headers, route.method === 'GET' ? undefined : body)
      expect([response.status, challengeOf(response), seen.read]).toEqual([403, 'insufficient_scope', 0])
    },
  )
})

describe('request bodies', () => {
  test.for(readers)(
    '$name rejects an oversized body and stops reading it at a fixed point',
    async ({ method, path, access }, { expect }) => {
      const max = access.bodyBytes ?? LITTLE
      expect(max).toBeLessThanOrEqual(largestOf(path, access))
      const isForm = /^\/v2beta\/|\/(edits|variations)$/.test(path)
      const type = { 'content-type': isForm ? 'multipart/form-data; boundary=x' : 'application/json' }
      const headers = { ...createHeaders(access.by, await newCaller(SCOPES)), ...type }
      const { body, seen } = createCountedBody(64 * 1024 * 1024)
      const response = await call(method, path, headers, body)
      const { detail, errors, error } = await problemOf(response)
      const message = `The body exceeds the limit of ${max} bytes.`
      expect([response.status, detail ?? errors ?? error]).toEqual([
        413,
        path.startsWith('/v2beta/') ? [message] : message,
      ])
      expect(seen).toEqual({ read: max + 32 * 1024 * 1024 + CHUNK, canceled: true })
    },
  )

  test('a body with an oversized Content-Length is not read at all', async ({ expect }) => {
    const caller = await newCaller()
    const { body, seen } = createCountedBody(64 * 1024 * 1024)
    const length = { 'content-length': String(64 * 1024 * 1024) }
    const response = await call('POST', '/v1/jobs', { ...caller.headers, ...length }, body)
    expect([response.status, seen.read]).toEqual([413, 0])
  })

  test('a body longer than its Content-Length does not bypass authentication', async ({ expect }) => {
    const caller = await createRevokedKey()
    const { body, seen } = createCountedBody(64 * 1024 * 1024)
    const response = await call('POST', '/v1/jobs', { ...caller.headers, 'content-length': '10' }, body)
    expect(response.status).toBe(401)
    expect(seen.read).toBeLessThanOrEqual(2 * CHUNK)
  })

  test('a body in several chunks is decoded correctly, even when a chunk ends inside a character', async ({
    expect,
  }) => {
    const caller = await newCaller()
    const bytes = new TextEncoder().encode(JSON.stringify({ prompt: 'ü€😀'.repeat(800), n: 0 }))
    const body = new ReadableStream({
      start(controller) {
        for (let at = 0; at < bytes.length; at += 7) controller.enqueue(bytes.slice(at, at + 7))
        controller.close()
      },
    })
    const { detail } = await problemOf(await call('POST', '/v1/jobs', caller.headers, body))
    expect(detail).toBe('n is 0; it must be an integer from 1 to 8.')
  })

  test('a body that is not UTF-8 is rejected', async ({ expect }) => {
    const caller = await newCaller()
    const body = new Response(new Uint8Array([0x7b, 0xff, 0x7d])).body!
    const response = await call('POST', '/v1/jobs', caller.headers, body)
    expect([response.status, (await problemOf(response)).detail]).toEqual([400, 'The body is not UTF-8.'])
  })
})

test('a small image request calls the account only once, to admit it; a large one is authenticated first', async ({
  expect,
}) => {
  const caller = await newCaller()
  fakeGpu(works)
  const [authenticate, admit] = [vi.spyOn(AccountDO.prototype, 'authenticate'), vi.spyOn(AccountDO.prototype, 'admit')]
  await generate(caller, { prompt: 'a cat' })
  expect([authenticate.mock.calls.length, admit.mock.calls.length]).toEqual([0, 1])
  await generate(caller, { prompt: 'a cat'.repeat(1000) })
  expect([authenticate.mock.calls.length, admit.mock.calls.length]).toEqual([1, 2])
  await send('DELETE', '/v1/jobs/a-name', caller)
  expect(authenticate).toHaveBeenCalledTimes(2)
})

test('an unknown path returns 404 and a wrong method 405, with or without a key', async ({ expect }) => {
  const { headers } = await newCaller()
  for (const init of [{}, { headers }]) {
    expect((await fetchWorker('/v1/nothing', init)).status).toBe(404)
    expect((await fetchWorker('/v1/models', { ...init, method: 'DELETE' })).status).toBe(405)
  }
})

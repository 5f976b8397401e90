// POST /v1/playground/tokens: visitors without a key.
import { env } from 'cloudflare:workers'
import { afterEach, test, vi } from 'vitest'
import { fetchWorker, newCaller, problemOf, send } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'

const settings = env as unknown as { PLAYGROUND_KEY: string | undefined }
afterEach(() => {
  vi.restoreAllMocks()
  settings.PLAYGROUND_KEY = undefined
})

const requestToken = () => fetchWorker('/v1/playground/tokens', { method: 'POST' })
type Reply = { token: string; budget_microdollars: number }

test('there is no token unless the operator has set a key', async ({ expect }) => {
  const response = await requestToken()
  expect([response.status, await response.json()]).toEqual([200, { object: 'token', token: null }])
})

test('a visitor gets a token of the operator’s key, which can run a job', async ({ expect }) => {
  const caller = await newCaller()
  settings.PLAYGROUND_KEY = caller.key
  fakeGpu(works)
  const response = await requestToken()
  const { token, budget_microdollars } = (await response.json()) as Reply
  expect([response.status, budget_microdollars]).toEqual([201, 20_000])
  const visitor = { headers: { authorization: `Bearer ${token}` } }
  const job = await send('POST', '/v1/jobs', visitor, { prompt: 'a cat' }, { prefer: 'wait' })
  expect([job.status, ((await job.json()) as { state: string }).state]).toEqual([200, 'succeeded'])
  expect((await send('GET', '/v1/jobs', visitor)).status).toBe(403)
})

test('the number of tokens per address is limited', async ({ expect }) => {
  settings.PLAYGROUND_KEY = (await newCaller()).key
  vi.spyOn(env.VISITOR_LIMIT, 'limit').mockResolvedValue({ success: false })
  const response = await requestToken()
  expect([response.status, response.headers.get('retry-after'), (await problemOf(response)).error.code]).toEqual([
    429,
    '60',
    'rate_limited',
  ])
})

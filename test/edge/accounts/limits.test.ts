// Limits over HTTP, with the headers that clients evaluate.
import { env } from 'cloudflare:workers'
import OpenAI from 'openai'
import { afterEach, describe, test, vi } from 'vitest'
import { UNLIMITED } from '../../../edge/config/limits.ts'
import {
  type Caller,
  fetchWorker,
  generate,
  generatedOf,
  ledgerOf,
  newCaller,
  problemOf,
  send,
} from '../support/client.ts'
import { fakeGpu, refuses, works } from '../support/fake-gpu.ts'
import { call, configure } from '../support/operator.ts'

afterEach(() => vi.restoreAllMocks())

const body = { prompt: 'a cat' }
const newLimitedCaller = (limits: Partial<typeof UNLIMITED>) => newCaller({ limits: { ...UNLIMITED, ...limits } })
const readCode = async (response: Response) => (await problemOf(response)).error.code

describe('requests per minute', () => {
  test('are reported with every image, and exceeding them is a 429 with Retry-After', async ({ expect }) => {
    const caller = await newLimitedCaller({ requests_per_minute: 2 })
    fakeGpu(works)
    const first = await generate(caller, body)
    expect(Object.fromEntries(first.headers)).toMatchObject({
      'ratelimit-policy': '"account";q=600;w=60, "key";q=2;w=60',
      ratelimit: expect.stringMatching(/^"account";r=599;t=1, "key";r=1;t=30$/),
      'x-ratelimit-limit-requests': '2',
      'x-ratelimit-remaining-requests': '1',
      'x-ratelimit-reset-requests': '30s',
    })
    await generate(caller, body)
    const third = await generate(caller, body)
    expect([third.status, await readCode(third)]).toEqual([429, 'rate_limited'])
    expect(Object.fromEntries(third.headers)).toMatchObject({
      'retry-after': '30',
      'retry-after-ms': '30000',
      'x-ratelimit-remaining-requests': '0',
      ratelimit: expect.stringContaining('"key";r=0;t=60'),
    })
  })

  test('apply to all keys of an account together', async ({ expect }) => {
    const caller = await newCaller()
    await configure(caller.account, { limits: { requests_per_minute: 1 } })
    fakeGpu(works)
    expect((await generate(caller, body)).status).toBe(200)
    const refused = await generate(caller, body)
    expect(await problemOf(refused)).toMatchObject({
      detail: 'This account may start 1 jobs per minute; try again in 60 s.',
    })
  })

  test('do not count the replay of an Idempotency-Key', async ({ expect }) => {
    const caller = await newLimitedCaller({ requests_per_minute: 1 })
    fakeGpu(works)
    const once = { 'idempotency-key': 'order-1' }
    const answers = [await generate(caller, body, once), await generate(caller, body, once)]
    expect(answers.map(({ status }) => status)).toEqual([200, 200])
  })
})

test('concurrent jobs: a second job is refused while the first runs, and admitted after it has failed', async ({
  expect,
}) => {
  const caller = await newLimitedCaller({ concurrent_jobs: 1 })
  let second: unknown
  fakeGpu(async (seen) => {
    const refused = await generate(caller, { prompt: 'another cat' })
    second = [refused.status, await readCode(refused), refused.headers.get('retry-after')]
    return refuses(400, 'invalid_request')(seen)
  }, works)
  expect((await generate(caller, body)).status).toBe(500)
  expect(second).toEqual([429, 'concurrency_limited', '2'])
  expect((await generate(caller, body)).status).toBe(200)
})

test.for([
  ['requests_per_minute', { requests_per_minute: 0 }],
  ['concurrent_jobs', { concurrent_jobs: 0 }],
] as const)('the error of a %s of 0 suggests no retry', async ([name, limits], { expect }) => {
  const refused = await generate(await newLimitedCaller(limits), body)
  const { detail, error } = await problemOf(refused)
  expect([refused.status, error.code]).toEqual([403, 'jobs_not_allowed'])
  expect(detail).toBe(`This API key may not start jobs: its ${name} limit is 0. Ask for a higher limit.`)
  expect([refused.headers.get('x-should-retry'), refused.headers.get('retry-after')]).toEqual(['false', null])
})

describe('money', () => {
  test('a key at its cap is refused, with the remaining budget and without a suggested retry', async ({ expect }) => {
    fakeGpu(works)
    const price = (await generatedOf(await generate(await newCaller(), body))).octet.price_microdollars
    const caller = await newLimitedCaller({ daily_microdollars: price + 1 })
    expect((await generate(caller, body)).status).toBe(200)
    const refused = await generate(caller, body)
    expect([refused.status, refused.headers.get('x-should-retry')]).toEqual([402, 'false'])
    expect((await problemOf(refused)).detail).toBe(
      `The request costs $${(price / 1e6).toFixed(6)}. This API key may spend today $0.000001 more.`,
    )
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: price })
  })

  test('a failed job does not count toward the cap', async ({ expect }) => {
    const caller = await newLimitedCaller({ total_microdollars: 1000 })
    fakeGpu(refuses(400, 'invalid_request'), works)
    expect((await generate(caller, body)).status).toBe(500)
    expect((await generate(caller, body)).status).toBe(200)
  })

  test('max_cost and max_latency_ms apply to an image and to its quote alike', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    const dear = await generate(caller, { ...body, max_cost: 0.0000001 })
    expect([dear.status, await readCode(dear)]).toEqual([422, 'max_cost_exceeded'])
    expect(calls).toHaveLength(0)
    const { body: quoted } = await call('POST', '/v1/quote', caller.headers, {
      ...body,
      max_cost: 1,
      max_latency_ms: 60_000,
    })
    const made = await generatedOf(await generate(caller, { ...body, max_cost: 1, max_latency_ms: 60_000 }))
    expect(made.octet).toMatchObject({ price_microdollars: quoted.price_microdollars, reason: quoted.reason })
  })
})

test('the openai client throws the matching error class for a refusal', async ({ expect }) => {
  const caller = await newLimitedCaller({ requests_per_minute: 1 })
  fakeGpu(works)
  const client = new OpenAI({
    apiKey: caller.key,
    baseURL: 'https://octet.test/v1',
    maxRetries: 0,
    fetch: async (url, init) => fetchWorker(String(url), init as RequestInit),
  })
  await client.images.generate({ prompt: 'a cat' })
  const error = await client.images.generate({ prompt: 'a cat' }).catch((error: unknown) => error)
  expect(error).toBeInstanceOf(OpenAI.RateLimitError)
  expect(error).toMatchObject({ code: 'rate_limited', type: 'rate_limit_error' })
})

describe('the outer limit', () => {
  const fetchModels = ({ headers }: Pick<Caller, 'headers'>) => fetchWorker('/v1/models', { headers })
  test('refuses before any call to the account', async ({ expect }) => {
    const caller = await newCaller()
    const limit = vi.spyOn(env.OUTER_LIMIT, 'limit').mockResolvedValue({ success: false })
    const refused = await fetchModels(caller)
    expect([refused.status, await readCode(refused), refused.headers.get('retry-after')]).toEqual([
      429,
      'rate_limited',
      '10',
    ])
    expect(limit).toHaveBeenCalledWith({ key: `${caller.account}/${caller.keyId}` })
  })

  test('does not count requests of a browser token beyond its own limit, because the key shares it', async ({
    expect,
  }) => {
    const caller = await newCaller()
    const minted = await send('POST', '/v1/tokens', caller, { budget_microdollars: 1 })
    const { token } = (await minted.json()) as { token: string }
    const outer = vi.spyOn(env.OUTER_LIMIT, 'limit')
    vi.spyOn(env.REQUEST_LIMIT, 'limit').mockResolvedValueOnce({ success: false })
    expect((await fetchModels({ headers: { authorization: `Bearer ${token}` } })).status).toBe(429)
    expect(outer).not.toHaveBeenCalled()
    expect((await fetchModels(caller)).status).toBe(200)
  })
})

// Work that precedes an admission, and is not charged: the fetch of an image, and moderation.
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import type { Limits } from '../../../edge/config/limits.ts'
import { accountOf } from '../support/admissions.ts'
import { type Caller, generate, generatedOf, newCaller, problemOf } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'

const variables = env as unknown as Record<string, unknown>
const policy = variables.OCTET_CONTENT_POLICY
afterEach(() => {
  variables.OCTET_CONTENT_POLICY = policy
  vi.restoreAllMocks()
})

const PNG = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
const IMAGE = 'https://images.example.com/cat.png'
const HTML = 'https://images.example.com/cat.html'
const REPLIES: Record<string, () => Response> = {
  [IMAGE]: () => new Response(PNG),
  [HTML]: () => new Response('<!doctype html>'),
  'https://moderation.test/v1/moderations': () => Response.json({ results: [{ flagged: false }] }),
}

/** The requests to other services; the GPU is a fake. */
function internet(): string[] {
  fakeGpu(works)
  const gpu = vi.mocked(fetch).getMockImplementation()!
  const fetched: string[] = []
  vi.spyOn(globalThis, 'fetch').mockImplementation(async (input, init) => {
    const url = String(input)
    if (!Object.hasOwn(REPLIES, url)) return gpu(input, init)
    fetched.push(url)
    return REPLIES[url]!()
  })
  return fetched
}

const limit = (caller: Caller, limits: Partial<Limits>) => accountOf(caller).changeKey(caller.keyId, { limits })
const codeOf = async (response: Response) => (await problemOf(response)).error.code
const withImage = { prompt: 'a cat', image: IMAGE }

describe('no image is fetched for a request', () => {
  test.for([
    [{ total_microdollars: 0 }, 'over_budget'],
    [{ daily_microdollars: 1 }, 'over_budget'],
    [{ concurrent_jobs: 0 }, 'jobs_not_allowed'],
    [{ requests_per_minute: 0 }, 'jobs_not_allowed'],
  ] as const)('under the limits %j', async ([limits, code], { expect }) => {
    const caller = await newCaller()
    await limit(caller, limits)
    const fetched = internet()
    for (const headers of [{}, { 'idempotency-key': 'new' }, { 'x-stainless-retry-count': '1' }])
      expect(await codeOf(await generate(caller, withImage, headers))).toBe(code)
    expect(fetched).toEqual([])
  })

  test('without credit of a prepaid account, or above its own max_cost', async ({ expect }) => {
    const caller = await newCaller()
    const fetched = internet()
    expect((await generate(caller, { ...withImage, max_cost: 0 })).status).toBe(422)
    await accountOf(caller).configure({ prepaid: true })
    expect(await codeOf(await generate(caller, withImage))).toBe('over_budget')
    expect(fetched).toEqual([])
  })
})

test('a prompt over budget is not sent for moderation', async ({ expect }) => {
  variables.OCTET_CONTENT_POLICY = { moderation: { url: 'https://moderation.test' } }
  const caller = await newCaller()
  const fetched = internet()
  expect((await generate(caller, { prompt: 'a cat' })).status).toBe(200)
  expect(fetched).toHaveLength(1)
  await limit(caller, { total_microdollars: 0 })
  expect(await codeOf(await generate(caller, { prompt: 'a dog' }))).toBe('over_budget')
  expect(fetched).toHaveLength(1)
})

test('a request whose image cannot be used counts toward the rate limit, and an admitted one counts once', async ({
  expect,
}) => {
  const caller = await newCaller()
  await limit(caller, { requests_per_minute: 3 })
  // The bucket does not refill.
  const now = Date.now()
  vi.spyOn(Date, 'now').mockReturnValue(now)
  const fetched = internet()
  const first = await generate(caller, withImage)
  expect([first.status, first.headers.get('x-ratelimit-remaining-requests')]).toEqual([200, '2'])
  for (const expected of ['invalid_request', 'invalid_request', 'rate_limited', 'rate_limited'])
    expect(await codeOf(await generate(caller, { ...withImage, image: HTML }))).toBe(expected)
  expect(fetched).toEqual([IMAGE, HTML, HTML])
})

test('a repeat of a request that used up the budget returns its job', async ({ expect }) => {
  const caller = await newCaller()
  internet()
  const keyed = { 'idempotency-key': 'one' }
  const first = (await generatedOf(await generate(caller, withImage, keyed))).octet
  await limit(caller, { total_microdollars: first.price_microdollars })
  expect((await generatedOf(await generate(caller, withImage, keyed))).octet.job).toBe(first.job)
  expect(await codeOf(await generate(caller, withImage))).toBe('over_budget')
})

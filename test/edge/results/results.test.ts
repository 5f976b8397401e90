import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import { signLink } from '../../../edge/auth/links.ts'
import { type Caller, fetchWorker, generate, generatedOf, newCaller, problemOf } from '../support/client.ts'
import { peppers } from '../support/config.ts'
import { createImageBytes, fakeGpu, works } from '../support/fake-gpu.ts'

let owner: Caller
let path: string
let link: string
let etag: string
let job: string

beforeEach(async () => {
  owner = await newCaller()
  fakeGpu(works)
  const { data, octet } = await generatedOf(await generate(owner, { prompt: 'a cat', seed: 3 }))
  job = octet.job
  path = `/v1/results/${job}/0.png`
  link = data[0]!.url!
  etag = `"${data[0]!.sha256}"`
})
afterEach(() => vi.restoreAllMocks())

const get = (headers: Record<string, string> = {}, method = 'GET') =>
  fetchWorker(path, { method, headers: { ...owner.headers, ...headers } })
const readBytes = async (response: Response) => new Uint8Array(await response.arrayBuffer())

describe('GET /v1/results/{job}/{file}', () => {
  test('returns the file to its owner, with private and immutable caching', async ({ expect }) => {
    const response = await get()
    expect(response.status).toBe(200)
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-type': 'image/png',
      'content-length': '5000',
      'content-disposition': `inline; filename="octet-${job}-0.png"`,
      'accept-ranges': 'bytes',
      'cache-control': 'private, max-age=86400, immutable',
      'x-content-type-options': 'nosniff',
      'x-request-id': expect.any(String),
      etag,
    })
    expect(await readBytes(response)).toEqual(createImageBytes(3))
  })

  test('HEAD has the same headers without a body', async ({ expect }) => {
    const [head, whole] = [await get({}, 'HEAD'), await get()]
    const names = ['content-type', 'content-length', 'etag', 'cache-control', 'accept-ranges']
    expect(names.map((name) => head.headers.get(name))).toEqual(names.map((name) => whole.headers.get(name)))
    expect([head.status, (await readBytes(head)).length]).toEqual([200, 0])
    await readBytes(whole)
  })

  test.for([
    ['bytes=0-0', 0, 1],
    ['bytes=10-19', 10, 20],
    ['bytes=4990-', 4990, 5000],
    ['bytes=-5', 4995, 5000],
    ['bytes=4999-9999', 4999, 5000],
    ['bytes=-9999', 0, 5000],
  ] as const)('%s is 206', async ([range, from, to], { expect }) => {
    const response = await get({ range })
    expect(response.status).toBe(206)
    expect(response.headers.get('content-range')).toBe(`bytes ${from}-${to - 1}/5000`)
    expect(response.headers.get('content-length')).toBe(String(to - from))
    expect(await readBytes(response)).toEqual(createImageBytes(3).slice(from, to))
  })

  test.for(['bytes=5000-', 'bytes=9999-10000', 'bytes=-0'])('%s is 416', async (range, { expect }) => {
    const response = await get({ range })
    expect(response.status).toBe(416)
    expect(response.headers.get('content-range')).toBe('bytes */5000')
    expect((await problemOf(response)).error.code).toBe('range_not_satisfiable')
  })

  test.for(['bytes=0-1,5-6', 'items=0-1', 'bytes=9-3', 'bytes=-', 'nonsense'])(
    '%s is ignored: 200',
    async (range, { expect }) => {
      const response = await get({ range })
      expect([response.status, (await readBytes(response)).length]).toEqual([200, 5000])
    },
  )

  test('supports If-None-Match (304) and If-Range', async ({ expect }) => {
    for (const tags of [etag, `W/${etag}`, `"x", ${etag}`, '*']) {
      const response = await get({ 'if-none-match': tags })
      expect([response.status, response.headers.get('etag'), (await readBytes(response)).length]).toEqual([
        304,
        etag,
        0,
      ])
    }
    const other = await get({ 'if-none-match': '"x"' })
    expect([other.status, (await readBytes(other)).length]).toEqual([200, 5000])
    const [same, changed] = [
      await get({ range: 'bytes=0-9', 'if-range': etag }),
      await get({ range: 'bytes=0-9', 'if-range': '"x"' }),
    ]
    expect([same.status, changed.status]).toEqual([206, 200])
    await Promise.all([same, changed].map(readBytes))
  })

  test('is 404 for another file, another job and a malformed path', async ({ expect }) => {
    for (const absent of [
      `/v1/results/${job}/1.png`,
      `/v1/results/${job}/0.jpg`,
      `/v1/results/job_${'0'.repeat(32)}/0.png`,
      '/v1/results/x/y',
    ])
      expect((await fetchWorker(absent, { headers: owner.headers })).status).toBe(404)
  })

  test('is 404 once the file is deleted', async ({ expect }) => {
    await env.RESULTS.delete(`results/30d/${owner.account}/${job}/0.png`)
    expect((await get()).status).toBe(404)
  })
})

describe('access to results', () => {
  test('is granted by the signed link until it expires', async ({ expect }) => {
    const response = await fetchWorker(link)
    expect(response.status).toBe(200)
    expect(Number(/max-age=(\d+)/.exec(response.headers.get('cache-control')!)![1])).toBeLessThanOrEqual(3600)
    expect(await readBytes(response)).toEqual(createImageBytes(3))
  })

  test('is refused without a key or link (401) and for another account (404)', async ({ expect }) => {
    expect((await fetchWorker(path)).status).toBe(401)
    const stranger = await newCaller()
    expect((await fetchWorker(path, { headers: stranger.headers })).status).toBe(404)
    expect((await fetchWorker(`/v1/jobs/${job}`, { headers: stranger.headers })).status).toBe(404)
  })

  test('is refused for a link that was changed, is for another file, or has expired (403)', async ({ expect }) => {
    const { searchParams } = new URL(link)
    const later = `${path}?exp=${Number(searchParams.get('exp')) + 1}&sig=${searchParams.get('sig')}`
    const otherFile = link.replace('0.png', '1.png')
    const junk = [`${path}?exp=x&sig=y`, `${path}?exp=1e9&sig=${searchParams.get('sig')}`]
    for (const bad of [later, otherFile, ...junk])
      expect((await problemOf(await fetchWorker(bad))).error.code).toBe('link_invalid')
    const expired = await fetchWorker(await signLink(peppers, { path, expires: 1_000_000, key: null }))
    expect([expired.status, (await problemOf(expired)).error.code]).toEqual([403, 'link_expired'])
  })
})

describe('GET /v1/jobs/{id}', () => {
  test('returns the outcome to the owner', async ({ expect }) => {
    const body = (await (await fetchWorker(`/v1/jobs/${job}`, { headers: owner.headers })).json()) as {
      images: { url: string }[]
    }
    expect(body).toMatchObject({
      id: job,
      state: 'succeeded',
      attempt: 1,
      route: 'turbo',
      error: null,
      price_microdollars: expect.any(Number),
    })
    expect(await readBytes(await fetchWorker(body.images[0]!.url))).toEqual(createImageBytes(3))
    expect(JSON.stringify(body)).not.toContain('results/30d')
  })

  test('is 401 without a key and 404 for an id that is not a job', async ({ expect }) => {
    expect((await fetchWorker(`/v1/jobs/${job}`)).status).toBe(401)
    for (const id of ['nonsense', `job_${'0'.repeat(32)}`])
      expect((await fetchWorker(`/v1/jobs/${id}`, { headers: owner.headers })).status).toBe(404)
  })
})

describe('GET /v1/jobs', () => {
  const list = async (caller: Caller, query = '') => {
    const response = await fetchWorker(`/v1/jobs${query}`, { headers: caller.headers })
    return (await response.json()) as { data: { id: string; state: string }[] }
  }

  test('lists the newest jobs of the account first, and none of another', async ({ expect }) => {
    const { octet } = await generatedOf(await generate(owner, { prompt: 'a second cat' }))
    expect((await list(owner)).data.map(({ id }) => id)).toEqual([octet.job, job])
    expect((await list(owner, '?limit=1')).data).toMatchObject([{ id: octet.job, state: 'succeeded' }])
    expect((await list(await newCaller())).data).toEqual([])
  })

  test('refuses a limit out of range and a caller without a key', async ({ expect }) => {
    const response = await fetchWorker('/v1/jobs?limit=0', { headers: owner.headers })
    expect([response.status, (await problemOf(response)).detail]).toEqual([
      400,
      'limit is "0"; it must be a whole number from 1 to 100.',
    ])
    expect((await fetchWorker('/v1/jobs')).status).toBe(401)
  })
})

describe('GET /v1/models', () => {
  test('lists the models of the catalog, for a caller with a key', async ({ expect }) => {
    const { data } = (await (await fetchWorker('/v1/models', { headers: owner.headers })).json()) as {
      data: { id: string; octet: unknown[] }[]
    }
    expect(data.map(({ id, octet }) => [id, octet.length])).toEqual([
      ['tiny', 2],
      ['paired', 1],
    ])
    expect((await fetchWorker('/v1/models')).status).toBe(401)
  })
})

// Retention, deletion and reuse of results.
import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import type { JobRecord } from '../../../edge/jobs/record.ts'
import {
  type Caller,
  fetchWorker,
  filesOf,
  generate,
  generatedOf,
  ledgerOf,
  newCaller,
  problemOf,
} from '../support/client.ts'
import { fakeGpu, type SeenRequest, works } from '../support/fake-gpu.ts'

let owner: Caller
let gpu: SeenRequest[]
beforeEach(async () => {
  owner = await newCaller()
  gpu = fakeGpu(works)
})
afterEach(() => vi.restoreAllMocks())

const body = { prompt: 'a cat', seed: 3, n: 2 }
type Image = { url: string | null; expires_at: number; deleted?: true }
const imagesOf = async (job: string) => {
  const response = await fetchWorker(`/v1/jobs/${job}`, { headers: owner.headers })
  return ((await response.json()) as { images: Image[] }).images
}
const remove = (path: string, caller = owner) => fetchWorker(path, { method: 'DELETE', headers: caller.headers })
const read = (path: string) => fetchWorker(path, { headers: owner.headers })
const readAnnounced = (job: string) =>
  vi.waitFor(async () => {
    if (!(await env.JOB.getByName(job).view())?.announced) throw new Error('not announced yet')
  })

async function generateAnnounced(fields: Record<string, unknown> = {}) {
  const generated = await generatedOf(await generate(owner, { ...body, ...fields }))
  await readAnnounced(generated.octet.job)
  return generated
}

/** Simulates the end of the retention period of the account's images. */
const expire = (job: string) =>
  runInDurableObject(env.JOB.getByName(job), (_, { storage }) => {
    const record = storage.kv.get<JobRecord>('job')!
    storage.kv.put('job', { ...record, images: record.images.map((image) => ({ ...image, expires_at: 1_000_000 })) })
  })

describe('retention', () => {
  test("is a setting of the account that determines an image's prefix and expiry", async ({ expect }) => {
    await env.ACCOUNT.getByName(owner.account).configure({ retention_days: 7 })
    const { octet } = await generateAnnounced()
    const { objects } = await env.RESULTS.list({ prefix: `results/7d/${owner.account}/` })
    expect([objects.length, await filesOf(owner)]).toEqual([2, []])
    const [{ expires_at } = { expires_at: 0 }] = await imagesOf(octet.job)
    expect(expires_at - objects[0]!.uploaded.getTime() / 1000).toBeCloseTo(7 * 86_400, -1)
  })

  test('is 30 days by default, and one of five values set by the operator', async ({ expect }) => {
    const account = (init: RequestInit) =>
      fetchWorker(`/v1/accounts/${owner.account}`, {
        ...init,
        headers: { authorization: `Bearer ${env.OCTET_ADMIN_TOKEN}`, 'content-type': 'application/json' },
      })
    expect(await (await account({})).json()).toMatchObject({ retention_days: 30 })
    const set = (days: number) => account({ method: 'PATCH', body: JSON.stringify({ retention_days: days }) })
    expect(await (await set(365)).json()).toMatchObject({ retention_days: 365 })
    expect((await problemOf(await set(31))).detail).toBe('retention_days is 31; it must be one of 1, 7, 30, 90, 365.')
  })

  test('deletes the link and the file of an image when it ends', async ({ expect }) => {
    const { octet, data } = await generateAnnounced()
    await expire(octet.job)
    for (const path of [data[0]!.url!, `/v1/results/${octet.job}/0.png`]) {
      const response = await read(path)
      expect([response.status, (await problemOf(response)).detail]).toEqual([404, 'This image has expired.'])
    }
    expect((await imagesOf(octet.job)).map(({ url }) => url)).toEqual([null, null])
  })
})

describe('deletion', () => {
  test('of one image leaves the others', async ({ expect }) => {
    const { octet, data } = await generateAnnounced()
    expect((await remove(`/v1/results/${octet.job}/0.png`)).status).toBe(204)
    expect(await filesOf(owner)).toEqual([expect.stringContaining('1.png')])
    expect((await fetchWorker(data[0]!.url!)).status).toBe(404)
    expect((await remove(`/v1/results/${octet.job}/0.png`)).status).toBe(404)
    expect((await imagesOf(octet.job)).map(({ url, deleted }) => [url === null, deleted])).toEqual([
      [true, true],
      [false, undefined],
    ])
    await (await fetchWorker(data[1]!.url!)).arrayBuffer()
  })

  test('of all images of a job can be repeated', async ({ expect }) => {
    const { octet } = await generateAnnounced()
    for (const _ of [1, 2]) expect((await remove(`/v1/jobs/${octet.job}/images`)).status).toBe(204)
    expect(await filesOf(owner)).toEqual([])
    expect((await ledgerOf(owner)).captured).toBe(octet.price_microdollars)
  })

  test('requires a key of the owner with the scope generate', async ({ expect }) => {
    const { octet } = await generateAnnounced()
    const [stranger, path] = [await newCaller(), `/v1/results/${octet.job}/0.png`]
    for (const each of [path, `/v1/jobs/${octet.job}/images`]) {
      expect((await remove(each, stranger)).status).toBe(404)
      expect((await fetchWorker(each, { method: 'DELETE' })).status).toBe(401)
    }
    expect(await filesOf(owner)).toHaveLength(2)
  })
})

describe('reuse', () => {
  test('returns the stored images for an identical request: no run, no charge, and a note', async ({ expect }) => {
    const first = await generateAnnounced()
    const again = await generatedOf(await generate(owner, { ...body, reuse: true }))
    expect(again.octet).toMatchObject({ job: first.octet.job, reused: true, price_microdollars: 0 })
    expect(again.data.map(({ sha256 }) => sha256)).toEqual(first.data.map(({ sha256 }) => sha256))
    expect((await fetchWorker(again.data[0]!.url!)).status).toBe(200)
    const async = await fetchWorker('/v1/jobs', {
      method: 'POST',
      headers: { ...owner.headers, 'content-type': 'application/json' },
      body: JSON.stringify({ ...body, reuse: true }),
    })
    expect([async.status, await async.json()]).toEqual([
      200,
      expect.objectContaining({ reused: true, price_microdollars: 0 }),
    ])
    expect(gpu).toHaveLength(1)
    expect(await ledgerOf(owner)).toEqual({ reserved: 0, captured: first.octet.price_microdollars })
  })

  test('must be requested; a different request is generated', async ({ expect }) => {
    await generateAnnounced()
    const others = [
      {},
      { seed: 4, reuse: true },
      { prompt: 'a dog', reuse: true },
      { n: 1, reuse: true },
      { steps: 5, reuse: true },
    ]
    for (const change of others) expect((await generateAnnounced(change)).octet).toMatchObject({ reused: false })
    expect(gpu).toHaveLength(1 + others.length)
  })

  test('is limited to the account, and ends with deletion and expiry', async ({ expect }) => {
    const first = await generateAnnounced()
    const stranger = await newCaller()
    const theirs = await generatedOf(await generate(stranger, { ...body, reuse: true }))
    expect(theirs.octet).toMatchObject({ reused: false })
    await remove(`/v1/results/${first.octet.job}/1.png`)
    const second = await generateAnnounced({ reuse: true })
    expect(second.octet).toMatchObject({ reused: false })
    await expire(second.octet.job)
    const third = await generateAnnounced({ reuse: true })
    expect(third.octet).toMatchObject({ reused: false })
    await env.RESULTS.delete(`results/30d/${owner.account}/${third.octet.job}/0.png`)
    expect((await generateAnnounced({ reuse: true })).octet).toMatchObject({ reused: false })
  })

  test('requires a valid key', async ({ expect }) => {
    await generateAnnounced()
    await env.ACCOUNT.getByName(owner.account).revokeKey(owner.keyId)
    expect((await generate(owner, { ...body, reuse: true })).status).toBe(401)
  })

  test('without a seed, or with fields that exclude it, is refused', async ({ expect }) => {
    const refused = [
      [
        { prompt: 'a cat', reuse: true },
        'reuse is true, but seed is missing; requests without a seed are never identical.',
      ],
      [
        { ...body, reuse: true, webhook: 'https://hooks.customer.com' },
        'reuse is true, but webhook is given as well; a reused result is returned immediately. Use only one of the two.',
      ],
    ] as const
    for (const [fields, detail] of refused) {
      const response = await generate(owner, fields)
      expect([response.status, (await problemOf(response)).detail]).toEqual([400, detail])
    }
  })
})

test('a request’s webhook must have an allowed address', async ({ expect }) => {
  const response = await generate(owner, { ...body, webhook: 'https://127.0.0.1/in' })
  const { error } = await problemOf(response)
  expect([response.status, error.param, error.message]).toEqual([
    400,
    'webhook',
    'webhook is "https://127.0.0.1/in"; it must name a host, not an IP address.',
  ])
})

// A job always has the price and the fingerprint of its ledger row, despite failures between the reservation and the job.
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { AccountDO } from '../../../edge/accounts/account.ts'
import { JobDO } from '../../../edge/jobs/job.ts'
import { accountOf } from '../support/admissions.ts'
import { type Caller, generate, ledgerOf, newCaller, problemOf, readJob, send } from '../support/client.ts'
import { fakeGpu, refuses, works } from '../support/fake-gpu.ts'
import { jobOf, waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

const cheap = { prompt: 'a cat', size: '16x16', steps: 1, route: 'full' }
const dear = { prompt: 'a cat', size: '2048x2048', steps: 100, n: 8, route: 'full' }
const put = (caller: Caller, body: object) => send('PUT', '/v1/jobs/x', caller, body)

/** The state of the job named x in the ledger and in its object. */
async function readState(caller: Caller) {
  const id = (await accountOf(caller).findJobByName('x'))!
  const [entry, job] = await Promise.all([accountOf(caller).entry(id), jobOf({ id }).view()])
  return { id, reserved: entry?.amount, price: job?.price }
}

describe('an expensive request under the name of a cheap reservation', () => {
  test('is a mismatch when the first worker died before it created the job', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    vi.spyOn(JobDO.prototype, 'create').mockRejectedValueOnce(new Error('the worker is terminated'))
    expect((await put(caller, cheap)).status).toBe(500)
    const second = await put(caller, dear)
    expect([second.status, (await problemOf(second)).error.code]).toEqual([422, 'idempotency_mismatch'])
    expect(await readState(caller)).toMatchObject({ reserved: expect.any(Number), price: undefined })
    const third = await readJob(await put(caller, cheap))
    await waitForEnd(third)
    const { reserved, price } = await readState(caller)
    expect(price).toBe(reserved)
    expect(calls.map(({ request: { steps, count } }) => [steps, count])).toEqual([[1, 1]])
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: reserved })
  })

  test('is a mismatch while the reply of the first admission is in transit', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    const { admit } = AccountDO.prototype
    vi.spyOn(AccountDO.prototype, 'admit').mockImplementationOnce(async function (this: AccountDO, request) {
      const admission = await admit.call(this, request)
      await new Promise((resolve) => setTimeout(resolve, 250))
      return admission
    })
    const first = put(caller, cheap)
    await vi.waitFor(async () => expect(await accountOf(caller).findJobByName('x')).not.toBeNull())
    expect((await put(caller, dear)).status).toBe(422)
    expect((await first).status).toBe(202)
    await waitForEnd(await readJob(await put(caller, cheap)))
    const { reserved, price } = await readState(caller)
    expect([price, (await ledgerOf(caller)).captured]).toEqual([reserved, reserved])
  })
})

test('a repeat after a price increase or a change of route runs the reserved job', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(works)
  vi.spyOn(JobDO.prototype, 'create').mockRejectedValueOnce(new Error('the worker is terminated'))
  await put(caller, cheap)
  const { reserved } = await readState(caller)
  const [prices, catalog] = [env.OCTET_PRICES, env.OCTET_CATALOG]
  env.OCTET_PRICES = { base: 500_000 }
  const offer = { route: 'full', model: 'other', tier: 'fp8', steps: 9, guidance_scale: 5, width: 64, height: 64 }
  env.OCTET_CATALOG = { offers: [{ ...offer, max_pixels: 4096 }] }
  const job = await readJob(await put(caller, cheap))
  env.OCTET_PRICES = prices
  env.OCTET_CATALOG = catalog
  await waitForEnd(job)
  expect(calls.map(({ request: { model } }) => model)).toEqual(['tiny'])
  expect((await readState(caller)).price).toBe(reserved)
  expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: reserved })
})

test('a job that differs from its reservation is not served', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu(works)
  const logged = vi.spyOn(console, 'error')
  const { create } = JobDO.prototype
  vi.spyOn(JobDO.prototype, 'create').mockImplementationOnce(function (this: JobDO, reservation) {
    return create.call(this, { ...reservation, spec: { ...reservation.spec!, price: 1 } })
  })
  const response = await put(caller, cheap)
  expect([response.status, (await problemOf(response)).error.code]).toEqual([500, 'internal'])
  expect(logged.mock.calls.join()).toContain('does not match its reservation')
})

test('a named job without a GPU can be retried, and its failure can be read until then', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu(refuses(503, 'loading'))
  const first = await readJob(await put(caller, cheap))
  await waitForEnd(first)
  expect(await readJob(await send('GET', '/v1/jobs/x', caller))).toMatchObject({ id: first.id, state: 'failed' })
  fakeGpu(works)
  const second = await readJob(await put(caller, cheap))
  expect(second.id).not.toBe(first.id)
  expect((await waitForEnd(second)).state).toBe('succeeded')
  expect((await readJob(await send('GET', '/v1/jobs/x', caller))).id).toBe(second.id)
  expect((await readJob(await put(caller, cheap))).id).toBe(second.id)
})

describe('reuse', () => {
  const body = { prompt: 'a cat', seed: 7, reuse: true }

  test('costs nothing, and counts toward the rate limit', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    await accountOf(caller).changeKey(caller.keyId, { limits: { requests_per_minute: 2 } }, null)
    await generate(caller, body)
    const second = await generate(caller, body)
    expect(await second.json()).toMatchObject({ octet: { reused: true, price_microdollars: 0 } })
    expect(calls).toHaveLength(1)
    expect((await problemOf(await generate(caller, body))).error.code).toBe('rate_limited')
  })

  test.for([
    [{ requests_per_minute: 0 }, /rate_limited|not_allowed/],
    [{ concurrent_jobs: 0 }, /concurrency_limited|not_allowed/],
    [{ total_microdollars: 0 }, /over_budget/],
  ] as const)('is refused under the limits %j', async ([limits, code], { expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    expect((await generate(caller, body)).status).toBe(200)
    await accountOf(caller).changeKey(caller.keyId, { limits })
    expect((await problemOf(await generate(caller, body))).error.code).toMatch(code)
  })
})

test('an image that may be too large to deliver is refused before anything is reserved', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(works)
  const catalog = env.OCTET_CATALOG
  const offer = { route: 'full', model: 'tiny', tier: 'fp8', steps: 9, guidance_scale: 5, width: 64, height: 64 }
  env.OCTET_CATALOG = { offers: [{ ...offer, max_pixels: 6144 ** 2 }] }
  const asked = { prompt: 'a cat', size: '6144x6144' }
  const png = await send('POST', '/v1/jobs', caller, asked)
  const jpeg = await send('POST', '/v1/jobs', caller, { ...asked, output_format: 'jpeg' })
  env.OCTET_CATALOG = catalog
  const { detail, error } = await problemOf(png)
  expect([png.status, error.param]).toEqual([400, 'output_format'])
  expect(detail).toContain('use output_format jpeg or webp, or a smaller size')
  expect(jpeg.status).toBe(202)
  await waitForEnd(await readJob(jpeg))
  expect(calls).toHaveLength(1)
})

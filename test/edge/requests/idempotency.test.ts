import { env } from 'cloudflare:workers'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { AccountDO } from '../../../edge/accounts/account.ts'
import { JobDO } from '../../../edge/jobs/job.ts'
import { type Caller, filesOf, generate, generatedOf, ledgerOf, newCaller, problemOf, send } from '../support/client.ts'
import {
  createAccepted,
  createFeed,
  createImage,
  createStarted,
  encodeLine,
  fakeGpu,
  refuses,
  stream,
  timings,
  works,
} from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const body = { prompt: 'a cat' }
const once = { 'idempotency-key': '"order-1"' }

test('the same key and request produce the same images, at one price', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(works)
  const first = await generatedOf(await generate(caller, body, once))
  const second = await generatedOf(await generate(caller, { ...body, n: null }, { 'idempotency-key': 'order-1' }))
  expect(second.octet).toEqual(first.octet)
  expect(second.data.map(({ sha256, seed }) => [sha256, seed])).toEqual(
    first.data.map(({ sha256, seed }) => [sha256, seed]),
  )
  expect(calls).toHaveLength(1)
  expect(await filesOf(caller)).toHaveLength(1)
  expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: first.octet.price_microdollars })
})

test('another request under the same key is 422; another account has keys of its own', async ({ expect }) => {
  const [caller, other] = [await newCaller(), await newCaller()]
  fakeGpu(works)
  await generate(caller, body, once)
  const response = await generate(caller, { prompt: 'a dog' }, once)
  expect([response.status, (await problemOf(response)).error.code]).toEqual([422, 'idempotency_mismatch'])
  expect((await generate(other, { prompt: 'a dog' }, once)).status).toBe(200)
})

test('a request while the first is running is a 409 with a suggested retry', async ({ expect }) => {
  const caller = await newCaller()
  let second: unknown
  fakeGpu(async (seen) => {
    const response = await generate(caller, body, once)
    second = [response.status, response.headers.get('retry-after'), (await problemOf(response)).error.code]
    return works(seen)
  })
  expect((await generate(caller, body, once)).status).toBe(200)
  expect(second).toEqual([409, '2', 'idempotency_in_flight'])
})

test('an invalid request is not retried: a repetition gets the same error', async ({ expect }) => {
  const caller = await newCaller()
  const refused = { type: 'failed', code: 'invalid_request', message: 'too large for this GPU' }
  const calls = fakeGpu((seen) => stream([createAccepted(seen), createStarted(seen), encodeLine(refused)]))
  const answers = [await generate(caller, body, once), await generate(caller, body, once)]
  expect(answers.map(({ status }) => status)).toEqual([400, 400])
  expect(answers[1]!.headers.get('x-octet-job')).toBe(answers[0]!.headers.get('x-octet-job'))
  expect(calls).toHaveLength(1)
})

test('a fault of the service frees the key, because the caller is expected to retry', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(refuses(400, 'invalid_request'), works)
  expect((await generate(caller, body, once)).status).toBe(500)
  expect((await generate(caller, body, once)).status).toBe(200)
  expect(calls).toHaveLength(2)
})

test('a job without a GPU frees its key, so that the expected retry generates the image', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu(refuses(503, 'loading'))
  const first = await generate(caller, body, once)
  expect([first.status, first.headers.get('retry-after')]).toEqual([503, '30'])
  fakeGpu(works)
  const { octet } = await generatedOf(await generate(caller, body, once))
  expect(octet.job).not.toBe(first.headers.get('x-octet-job'))
  expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: octet.price_microdollars })
})

test('after a crash between reservation and job, a repeated request creates the reserved job', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu(works)
  const failure = vi.spyOn(JobDO.prototype, 'run').mockRejectedValue(new Error('the worker is terminated'))
  expect((await generate(caller, { ...body, steps: 1 }, once)).status).toBe(500)
  failure.mockRestore()
  const { reserved } = await ledgerOf(caller)
  const dear = await generate(caller, { ...body, steps: 4, n: 8, size: '1024x1024' }, once)
  expect([dear.status, (await problemOf(dear)).error.code]).toEqual([422, 'idempotency_mismatch'])
  env.OCTET_PRICES = { base: 100_000 }
  const { octet } = await generatedOf(await generate(caller, { ...body, steps: 1 }, once))
  env.OCTET_PRICES = undefined
  expect(octet.price_microdollars).toBe(reserved)
  expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: reserved })
})

test('a key that is empty or too long is refused', async ({ expect }) => {
  const caller = await newCaller()
  for (const name of ['""', 'x'.repeat(256)]) {
    const response = await generate(caller, body, { 'idempotency-key': name })
    expect([response.status, (await problemOf(response)).detail]).toEqual([
      400,
      expect.stringContaining('Idempotency-Key has'),
    ])
  }
})

test('a job that lost a stream keeps its key in flight until it ends', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu((seen) => stream([createAccepted(seen), createStarted(seen)]), works)
  expect((await generatedOf(await generate(caller, body, once))).octet.attempts).toBe(2)
  expect((await generatedOf(await generate(caller, body, once))).octet.attempts).toBe(2)
})

describe('a retry without a key', () => {
  const again = { 'x-stainless-retry-count': '1' }
  /** Sends a second request while the first runs, and then lets the GPU continue. */
  async function sendTwice(caller: Caller, fields: object, headers: Record<string, string>) {
    const { behavior, send: feed } = createFeed()
    const admit = vi.spyOn(AccountDO.prototype, 'admit')
    const calls = fakeGpu(behavior, works)
    const first = generate(caller, fields)
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    const second = generate(caller, fields, headers)
    await vi.waitFor(() =>
      expect(admit.mock.settledResults.map(({ type }) => type)).toEqual(['fulfilled', 'fulfilled']),
    )
    const [seen] = calls
    feed(
      createAccepted(seen!),
      createStarted(seen!),
      ...(await createImage(seen!, 0)),
      encodeLine({ type: 'succeeded', images: 1, timings }),
    )
    const replies = await Promise.all([generatedOf(await first), generatedOf(await second)])
    return {
      calls,
      jobs: replies.map(({ octet }) => octet.job),
      warnings: replies.map(({ octet }) => octet.warnings),
    }
  }

  test('of an SDK joins the first request while it is running: one job, one price', async ({ expect }) => {
    const caller = await newCaller()
    const { calls, jobs } = await sendTwice(caller, body, again)
    expect(jobs[1]).toBe(jobs[0])
    expect(calls).toHaveLength(1)
    expect(await filesOf(caller)).toHaveLength(1)
  })

  test('is also recognized by an equal seed, because both requests have the same image', async ({ expect }) => {
    const { jobs } = await sendTwice(await newCaller(), { ...body, seed: 7 }, {})
    expect(jobs[1]).toBe(jobs[0])
  })

  test('by an equal request of the same API key joins the running job: one job, one price, and a warning', async ({
    expect,
  }) => {
    const caller = await newCaller()
    const { calls, jobs, warnings } = await sendTwice(caller, body, {})
    expect(jobs[1]).toBe(jobs[0])
    expect(calls).toHaveLength(1)
    expect(await filesOf(caller)).toHaveLength(1)
    expect(warnings.map((each) => each.map(({ code }) => code))).toEqual([[], ['request_joined']])
  })

  test('creates a new job once the first has ended, and for another account or body', async ({ expect }) => {
    const [caller, other] = [await newCaller(), await newCaller()]
    const calls = fakeGpu(works)
    for (const each of [caller, other]) await generate(each, body)
    await generate(caller, body, again)
    await generate(caller, { prompt: 'a dog' }, again)
    expect(calls).toHaveLength(4)
  })
})

test('equal requests with a seed under two Idempotency-Keys or names are two jobs', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(works)
  const seeded = { ...body, seed: 7 }
  const [one, two] = await Promise.all(
    ['one', 'two'].map((key) => generate(caller, seeded, { 'idempotency-key': key }).then(generatedOf)),
  )
  expect(two!.octet.job).not.toBe(one!.octet.job)
  for (const name of ['a', 'b']) {
    await send('PUT', `/v1/jobs/${name}`, caller, seeded)
    expect((await send('GET', `/v1/jobs/${name}`, caller)).status).toBe(200)
  }
  await vi.waitFor(() => expect(calls).toHaveLength(4))
})

test('a retry that is refused leaves the failed job under its name', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu(refuses(400, 'invalid_request'))
  const put = () => send('PUT', '/v1/jobs/mine', caller, body, { prefer: 'wait=20' })
  await put()
  await env.ACCOUNT.getByName(caller.account).changeKey(caller.keyId, { limits: { total_microdollars: 0 } }, null)
  expect((await put()).status).toBe(402)
  expect(await (await send('GET', '/v1/jobs/mine', caller)).json()).toMatchObject({ state: 'failed' })
})

test('an Idempotency-Key used with one job name is refused with another', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu(works)
  const put = (name: string) => send('PUT', `/v1/jobs/${name}`, caller, body, once)
  expect((await put('a')).status).toBeLessThan(300)
  const other = await put('b')
  expect([other.status, (await problemOf(other)).error.code]).toEqual([422, 'idempotency_mismatch'])
  expect((await put('a')).status).toBeLessThan(300)
})

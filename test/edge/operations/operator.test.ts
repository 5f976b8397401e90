import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { checkKey } from '../../../edge/auth/keys.ts'
import { newJobId } from '../../../edge/jobs/job-id.ts'
import { requestOf } from '../support/admissions.ts'
import { type Caller, fetchWorker, generate, generatedOf, newCaller, problemOf } from '../support/client.ts'
import { peppers } from '../support/config.ts'
import {
  createImage,
  createStarted,
  encodeLine,
  fakeGpu,
  refuses,
  type SeenRequest,
  stream,
  works,
} from '../support/fake-gpu.ts'
import { addEndpoint, newManager } from '../support/manager.ts'
import { fakeReceiver } from '../support/receiver.ts'

afterEach(() => vi.restoreAllMocks())

type Report = {
  id: string
  account: string
  job: { state: string; asked: Record<string, unknown>; keyId: string } | null
  events: { type: string; attempt: number; last?: { step: number } }[]
  ledger: { state: string; charged: number; amount: number } | null
  images: { key: string; in_store: boolean; receipt: boolean }[]
  webhooks: { endpoint: string; state: string; attempts: { status: number }[] }[]
}

const ask = (path: string, token = env.OCTET_ADMIN_TOKEN) =>
  fetchWorker(`/v1/operator/jobs/${path}`, { headers: { authorization: `Bearer ${token}` } })
const report = async (path: string) => (await (await ask(path)).json()) as Report

const flower = { prompt: 'a heron in the reeds', route: 'full', size: '64x64' }

async function createdByOf(caller: Caller) {
  const { octet } = await generatedOf(await generate(caller, flower))
  return octet
}

/** Sends a warning that quotes the prompt, as the GPU function does, and succeeds. */
const warns = async (seen: SeenRequest) => {
  const quoted = encodeLine({
    type: 'warning',
    code: 'prompt_truncated',
    message: `CLIP did not see "${flower.prompt}"`,
  })
  const end = { images: 1, timings: { queue: 0, load: 0, encode: 0, denoise: 0, decode: 0, total: 0 } }
  return stream([
    createStarted(seen),
    quoted,
    ...(await createImage(seen, 0)),
    encodeLine({ type: 'succeeded', ...end }),
  ])
}

describe('GET /v1/operator/jobs/{id}', () => {
  test('reports a job’s states, attempts, money, images and webhooks', async ({ expect }) => {
    const caller = await newManager()
    fakeGpu(works)
    const received = fakeReceiver()
    const endpoint = await addEndpoint(caller)
    const { job, price_microdollars } = await createdByOf(caller)
    await vi.waitFor(() => expect(received).toHaveLength(1))
    const found = await vi.waitFor(async () => {
      const found = await report(job)
      expect(found.webhooks).toMatchObject([{ endpoint: endpoint.id, state: 'delivered', attempts: [{ status: 204 }] }])
      return found
    })

    expect(found).toMatchObject({ id: job, account: caller.account, job: { state: 'succeeded', keyId: caller.keyId } })
    expect(found.events.map(({ type }) => type)).toEqual(
      ['queued', 'starting', 'accepted', 'started', 'step', 'stored', 'succeeded'], //
    )
    expect(found.events.find(({ type }) => type === 'step')).toMatchObject({ attempt: 1, last: { step: 28 } })
    expect(found.ledger).toMatchObject({ state: 'captured', charged: price_microdollars })
    expect(found.images).toMatchObject([{ in_store: true, receipt: true }])
  })

  test('contains neither prompts nor receipts, even if an event quotes one', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(warns)
    const { job } = await createdByOf(caller)
    const text = JSON.stringify(await report(job))
    expect(text).toContain('prompt_truncated')
    expect(text).not.toContain('heron')
    expect(text).not.toMatch(/eyJ/)
    expect((await report(job)).job!.asked).toMatchObject({ prompt_characters: 20, steps: 28, seed: expect.any(Number) })
  })

  test('contains the internal cause of a failure, which is hidden from its owner', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(refuses(400, 'invalid_request'))
    const response = await generate(caller, flower)
    const job = response.headers.get('x-octet-job')!
    expect(await response.text()).not.toContain('secret detail')
    const found = await report(job)
    expect(JSON.stringify(found.events)).toContain('secret detail of invalid_request')
    expect(found).toMatchObject({ job: { state: 'failed' }, ledger: { state: 'released', charged: 0 }, images: [] })
    const owners = await fetchWorker(`/v1/jobs/${job}`, { headers: caller.headers })
    expect(await owners.text()).not.toContain('secret detail')
    const events = await fetchWorker(`/v1/jobs/${job}/events`, { headers: caller.headers })
    expect(await events.text()).not.toContain('secret detail')
  })

  test('reports an image that is missing in the store', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    const { job } = await createdByOf(caller)
    await env.RESULTS.delete((await report(job)).images[0]!.key)
    expect((await report(job)).images).toMatchObject([{ in_store: false }])
  })

  test('finds a reservation whose job was never created, if the request names the account', async ({ expect }) => {
    const caller = await newCaller()
    const credential = (await checkKey(peppers, caller.key))!
    const job = newJobId()
    await env.ACCOUNT.getByName(caller.account).admit(requestOf(credential, { job, price: 7 }))
    expect((await ask(job)).status).toBe(404)
    expect(await report(`${job}?account=${caller.account}`)).toMatchObject({
      job: null,
      ledger: { state: 'reserved', amount: 7 },
    })
  })

  test('is for the operator only, and explains an invalid id', async ({ expect }) => {
    const caller = await newManager()
    const id = newJobId()
    for (const token of [caller.key, 'x']) expect((await ask(id, token)).status).toBe(401)
    const absent = await ask(id)
    expect([absent.status, (await problemOf(absent)).detail]).toEqual([404, `There is no job ${id}.`])
    const name = await ask('my-job')
    expect([name.status, (await problemOf(name)).detail]).toEqual([
      400,
      'my-job is not a job id; to look up a job by name, add account=….',
    ])
    expect((await ask('my-job?account=someone')).status).toBe(404)
  })
})

test("the day's sums and every endpoint's GPU, for the operator alone", async ({ expect }) => {
  const ask = (token: string) => fetchWorker('/v1/operator/status', { headers: { authorization: `Bearer ${token}` } })
  expect((await ask('someone')).status).toBe(401)
  const now = Date.now()
  await env.DB.batch([
    env.DB.prepare(
      `INSERT INTO usage_ledger (id, account, job, key_id, tier, state, reserved_amount, charged, reserved, settled)
       VALUES ('a/1','a','1','k','fp8','captured',100,90,0,?1), ('a/2','a','2','k','fp8','released',100,0,0,?1), ('a/3','a','3','k','fp8','captured',100,70,0,?2)`,
    ).bind(now, now - 2 * 86_400_000),
    env.DB.prepare("INSERT INTO observations VALUES ('o1','default','tiny','fp8',?1,?1,1,0.5,12,2.5)").bind(now),
  ])
  const status = (await (await ask(env.OCTET_ADMIN_TOKEN)).json()) as { endpoints: { name: string }[]; today: object }
  expect(status.endpoints.map(({ name }) => name)).toEqual(['default', 'spare'])
  expect(status.today).toMatchObject({
    jobs: 2,
    captured: 1,
    microdollars: 90,
    images: 1,
    cold_starts: 1,
    gpu_seconds: 14.5,
  })
})

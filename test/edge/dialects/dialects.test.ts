// The parts of a dialect that the API of OpenAI does not need, with a queue's API, and the parts that a test can replace.
import { createExecutionContext, waitOnExecutionContext } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { createApp } from '../../../edge/app.ts'
import type { Dialect, JsonReply, RenderedJob } from '../../../edge/dialects/definition/dialect.ts'
import { DIALECTS } from '../../../edge/dialects/dialects.ts'
import { openai } from '../../../edge/dialects/openai/openai.ts'
import { announce } from '../../../edge/jobs/announcement.ts'
import { type Caller, generate, newCaller, ORIGIN } from '../support/client.ts'
import { createImageBytes, fakeGpu, untilCanceled, works } from '../support/fake-gpu.ts'
import { createFinalJob, waitForEnd } from '../support/jobs.ts'
import { addEndpoint, newManager } from '../support/manager.ts'
import { fakeReceiver } from '../support/receiver.ts'

afterEach(() => vi.restoreAllMocks())

const render = ({ job, files, parameters, reused, origin }: RenderedJob): JsonReply => ({
  status: job.state === 'succeeded' ? 200 : 202,
  headers: { 'x-state': job.state },
  json: {
    id: job.id,
    state: job.state,
    files,
    prompt: parameters.prompt,
    reused,
    status_url: `${origin}/queue/runs/${job.id}`,
  },
})

/** The API of a made-up queue. */
const queue: Dialect = {
  name: 'queue',
  keyPlaces: ['Key', 'Basic', 'x-api-key'],
  cors: { origins: ['https://app.example'], exposedHeaders: ['x-state'] },
  routes: [
    {
      method: 'POST',
      path: '/queue/:app/runs',
      action: 'submit',
      accepts: 'json',
      parse: ({ params, query, headers, body }) => ({
        fields: { ...(body.input as object), model: params.app, n: Number(query.n ?? 1) },
        wait: Number(headers.get('x-wait') ?? 0),
      }),
      render,
    },
    { method: 'GET', path: '/queue/runs/:id', action: 'read', render },
    {
      method: 'GET',
      path: '/queue/runs/:id/file',
      action: 'read',
      render: () => ({ image: 0, headers: { 'x-file': '1' } }),
    },
    { method: 'PUT', path: '/queue/runs/:id/cancel', action: 'cancel', render },
    {
      method: 'GET',
      path: '/queue/runs',
      action: 'list',
      parse: ({ query: { size, from } }) => ({ limit: size, after: from }),
      render: (jobs, next) => ({ json: { runs: jobs.map(({ id }) => id), next } }),
    },
    { method: 'GET', path: '/queue/models', action: 'describe', render: (facts) => ({ json: facts }) },
  ],
  error: ({ status, detail }) => ({
    status: status === 400 ? 409 : 404,
    headers: { 'x-error': '1' },
    json: { detail: [detail] },
  }),
}
const app = createApp([...DIALECTS, queue])

type RequestOptions = { headers?: Record<string, string>; body?: unknown }
async function call(method: string, path: string, { headers = {}, body }: RequestOptions = {}): Promise<Response> {
  const context = createExecutionContext()
  const init = body === undefined ? {} : { body: JSON.stringify(body) }
  const all = { 'content-type': 'application/json', ...headers }
  const response = await app.fetch(new Request(new URL(path, ORIGIN), { method, headers: all, ...init }), env, context)
  await waitOnExecutionContext(context)
  return response
}
const keyOf = ({ key }: Caller) => ({ authorization: `Key ${key}` })
type Run = { id: string; state: string; files: { url: string }[]; status_url: string }
const runOf = async (response: Response) => (await response.json()) as Run

describe('a dialect', () => {
  test('replies immediately, shows the job, and cancels it', async ({ expect }) => {
    fakeGpu(untilCanceled(1))
    const caller = await newCaller()
    const headers = keyOf(caller)
    const response = await call('POST', '/queue/tiny/runs?n=2', { headers, body: { input: { prompt: 'a cat' } } })
    const run = await runOf(response)
    expect([response.status, response.headers.get('x-state')]).toEqual([202, run.state])
    expect(response.headers.get('x-octet-job')).toBe(run.id)
    expect(run).toMatchObject({
      files: [],
      prompt: 'a cat',
      reused: false,
      status_url: `${ORIGIN}/queue/runs/${run.id}`,
    })
    expect(await env.JOB.getByName(run.id).view()).toMatchObject({
      dialect: 'queue',
      request: { model: 'tiny', count: 2 },
    })
    expect(await runOf(await call('GET', new URL(run.status_url).pathname, { headers }))).toMatchObject({ id: run.id })
    const canceled = await runOf(await call('PUT', `/queue/runs/${run.id}/cancel`, { headers }))
    expect(canceled.id).toBe(run.id)
    expect(await waitForEnd(run)).toMatchObject({ cancelRequested: true, state: 'canceled' })
  })

  test('waits for the requested time, and returns links or bytes', async ({ expect }) => {
    fakeGpu(works)
    const headers = { ...keyOf(await newCaller()), 'x-wait': '20' }
    const response = await call('POST', '/queue/tiny/runs', { headers, body: { input: { prompt: 'a cat', seed: 5 } } })
    const { id, state, files } = await runOf(response)
    expect([response.status, state]).toEqual([200, 'succeeded'])
    expect(files).toEqual([{ url: expect.stringContaining(`/v1/results/${id}/0.png?`) }])
    const file = await call('GET', `/queue/runs/${id}/file`, { headers })
    expect([file.headers.get('content-type'), file.headers.get('x-file')]).toEqual(['image/png', '1'])
    expect(new Uint8Array(await file.arrayBuffer())).toEqual(createImageBytes(5))
  })

  test('lists jobs page by page, and describes the deployment', async ({ expect }) => {
    fakeGpu(works)
    const caller = await newCaller()
    const headers = { ...keyOf(caller), 'x-wait': '20' }
    const ids: string[] = []
    for (const prompt of ['first', 'second'])
      ids.unshift((await runOf(await call('POST', '/queue/tiny/runs', { headers, body: { input: { prompt } } }))).id)
    const first = await (await call('GET', '/queue/runs?size=1', { headers })).json()
    expect(first).toEqual({ runs: [ids[0]], next: ids[0] })
    const second = await (await call('GET', `/queue/runs?size=1&from=${ids[0]}`, { headers })).json()
    expect(second).toEqual({ runs: [ids[1]], next: null })
    const facts = await (await call('GET', '/queue/models', { headers })).json()
    expect(facts).toEqual({ models: ['tiny', 'paired'], account: caller.account, chosen: null, loras: [] })
  })

  test('accepts keys only in its own places', async ({ expect }) => {
    const caller = await newCaller()
    const { key } = caller
    const accepted = [
      { authorization: `Key ${key}` },
      { authorization: `Basic ${btoa(`user:${key}`)}` },
      { authorization: `basic ${btoa(key)}` },
      { 'x-api-key': key },
    ]
    for (const headers of accepted) expect((await call('GET', '/queue/models', { headers })).status).toBe(200)
    const refused = [{}, { authorization: `Bearer ${key}` }, { authorization: 'Basic ???' }, { 'x-key': key }]
    for (const headers of refused as Record<string, string>[]) {
      const response = await call('GET', '/queue/models', { headers })
      expect([response.status, response.headers.get('x-error')]).toEqual([404, '1'])
      expect(await response.json()).toEqual({ detail: [expect.stringContaining('"Authorization: Key oct_…" or')] })
    }
    const native = await call('GET', '/v1/models', { headers: { authorization: `Key ${key}` } })
    expect(native.status).toBe(401)
  })

  test('has its own error format, including for other methods, large headers and other accounts’ jobs', async ({
    expect,
  }) => {
    const [headers, stranger] = [keyOf(await newCaller()), createFinalJob(await newCaller())]
    const replies = [
      await call('POST', '/queue/tiny/runs', { headers, body: { input: { prompt: 'a cat', steps: 0 } } }),
      await call('DELETE', '/queue/runs', { headers }),
      await call('GET', '/queue/runs', { headers: { ...headers, 'x-api-key': 'x'.repeat(3000) } }),
      await call('GET', `/queue/runs/${stranger.id}`, { headers }),
    ]
    expect(replies.map(({ status }) => status)).toEqual([409, 404, 404, 404])
    for (const reply of replies) {
      expect(reply.headers.get('content-type')).toBe('application/json')
      expect(Object.keys((await reply.json()) as object)).toEqual(['detail'])
    }
  })

  test('gives a revoked key no details about its request, for any status of its errors', async ({ expect }) => {
    const caller = await newCaller()
    await env.ACCOUNT.getByName(caller.account).revokeKey(caller.keyId)
    const body = { input: { prompt: 'a cat', steps: 0 } }
    const headers = { ...keyOf(caller), 'content-length': String(JSON.stringify(body).length) }
    const reply = await call('POST', '/queue/tiny/runs', { headers, body })
    expect(await reply.json()).toEqual({ detail: [expect.stringContaining('invalid or was revoked')] })
  })

  test('applies its own CORS policy', async ({ expect }) => {
    const sendPreflight = (origin: string) =>
      call('OPTIONS', '/queue/runs', { headers: { origin, 'access-control-request-method': 'GET' } })
    const allowed = async (origin: string) => (await sendPreflight(origin)).headers.get('access-control-allow-origin')
    expect([await allowed('https://app.example'), await allowed('https://other.example')]).toEqual([
      'https://app.example',
      null,
    ])
    expect((await sendPreflight('https://app.example')).headers.get('access-control-max-age')).toBe('7200')
    const response = await call('GET', '/queue/models', { headers: { origin: 'https://app.example' } })
    expect(response.headers.get('access-control-expose-headers')).toContain('x-state')
  })
})

/** Replaces functions of OpenAI's dialect during a test. */
async function runWithFunctions(functions: Partial<Dialect>, run: () => Promise<void>): Promise<void> {
  const before = { ...openai }
  Object.assign(openai, functions)
  await run().finally(() => {
    for (const name of Object.keys(functions)) delete openai[name as 'error' | 'webhook']
    Object.assign(openai, before)
  })
}

test('a dialect renders the errors of its route, including those before the handler', async ({ expect }) => {
  await runWithFunctions({ error: ({ detail, status }) => ({ json: { detail, status } }) }, async () => {
    const response = await generate({ headers: {} }, { prompt: 'a cat' })
    expect([response.status, await response.json()]).toEqual([
      401,
      {
        status: 401,
        detail: expect.stringContaining(
          'The API key is missing. Send it as "Authorization: Bearer oct_…" or "x-api-key',
        ),
      },
    ])
  })
})

test('a dialect renders the webhooks of its jobs, with links', async ({ expect }) => {
  const webhook: Dialect['webhook'] = ({ type, timestamp, data }) => ({
    type,
    timestamp,
    data: { id: data.id, images: data.images! },
  })
  await runWithFunctions({ webhook }, async () => {
    const caller = await newManager()
    const calls = fakeReceiver()
    await addEndpoint(caller)
    const [job, native] = [createFinalJob(caller, { dialect: 'openai' }), createFinalJob(caller)]
    await announce(env, job)
    await announce(env, native)
    await vi.waitFor(() => expect(calls).toHaveLength(2))
    const payloads = calls.map(
      ({ body }) => JSON.parse(body) as { dialect?: string; data: { id: string; images: { url: string }[] } },
    )
    const [rendered, plain] = [job, native].map(({ id }) => payloads.find(({ data }) => data.id === id)!)
    expect(Object.keys(rendered!.data)).toEqual(['id', 'images'])
    expect(rendered!.data.images[0]!.url).toContain(job.id)
    expect(plain!.data).toMatchObject({ object: 'job', state: 'succeeded' })
    expect(payloads.map(({ dialect }) => dialect)).toEqual([undefined, undefined])
  })
})

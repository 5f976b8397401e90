import { env } from 'cloudflare:workers'
import { afterEach, test, vi } from 'vitest'
import type { Dialect } from '../../../edge/dialects/dialect.ts'
import { openai } from '../../../edge/dialects/openai.ts'
import { announce } from '../../../edge/jobs/announcement.ts'
import { generate, newCaller } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { finalJob, over } from '../support/jobs.ts'
import { addEndpoint, newManager } from '../support/manager.ts'
import { receiver } from '../support/receiver.ts'

afterEach(() => vi.restoreAllMocks())

/** Gives OpenAI's dialect other functions for the time of a test. */
async function using(functions: Partial<Dialect>, run: () => Promise<void>): Promise<void> {
  const before = { ...openai }
  Object.assign(openai, functions)
  await run().finally(() => {
    for (const name of Object.keys(functions)) delete openai[name as 'error' | 'webhook']
    Object.assign(openai, before)
  })
}

test('a dialect maps the request to native fields, and renders the reply', async ({ expect }) => {
  const parse: Dialect['parse'] = ({ input }) => ({ prompt: (input as { text: string }).text })
  await using({ parse, render: ({ id, state }, files) => ({ id, status: state, output: files }) }, async () => {
    fakeGpu(works)
    const response = await generate(await newCaller(), { input: { text: 'a cat' } })
    const body = (await response.json()) as { id: string }
    expect(body).toEqual({ id: expect.any(String), status: 'succeeded', output: [{ url: expect.any(String) }] })
    const job = await over(body)
    expect([job.dialect, job.request.prompt]).toEqual(['openai', 'a cat'])
  })
})

test('a dialect renders the errors of its route, also those before the handler', async ({ expect }) => {
  await using({ error: ({ detail, status }) => ({ detail, status }) }, async () => {
    const response = await generate({ headers: {} }, { prompt: 'a cat' })
    expect([response.status, await response.json()]).toEqual([
      401,
      { status: 401, detail: 'The API key is missing. Send it as "Authorization: Bearer oct_…".' },
    ])
  })
})

test('a dialect renders the webhooks of its jobs, with links', async ({ expect }) => {
  const webhook: Dialect['webhook'] = ({ type, timestamp, data }) => ({
    type,
    timestamp,
    data: { id: data.id, images: data.images! },
  })
  await using({ webhook }, async () => {
    const caller = await newManager()
    const calls = receiver()
    await addEndpoint(caller)
    const [job, native] = [finalJob(caller, { dialect: 'openai' }), finalJob(caller)]
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

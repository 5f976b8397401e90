import { createExecutionContext } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateImage } from 'ai'
import { Hono } from 'hono'
import OpenAI from 'openai'
import { afterEach, describe, test, vi } from 'vitest'
import type { EdgeEnv } from '../../../edge/http/context.ts'
import { replyWithHeartbeat } from '../../../edge/http/heartbeat.ts'
import { fetchWorker, generate, ledgerOf, newCaller, ORIGIN, problemOf } from '../support/client.ts'
import { encodeLine, fakeGpu, holdUntil } from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const errorOf = (call: Promise<unknown>) => call.then(() => null).catch((error: unknown) => error)

/** Reads a body to its end or its failure. */
async function readAll(response: Response): Promise<{ text: string; isAborted: boolean }> {
  const reader = response.body!.getReader()
  const decoder = new TextDecoder()
  for (let text = ''; ; ) {
    const read = await reader.read().catch(() => null)
    if (!read || read.done) return { text, isAborted: !read }
    text += decoder.decode(read.value, { stream: true })
  }
}

describe('a long reply', () => {
  const times = { startMs: 5, beatMs: 5 }
  const { promise: never } = Promise.withResolvers<Response>()
  const later = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
  const replyTo = (work: Promise<Response>, within = times) => {
    const app = new Hono<EdgeEnv>().get('/', (c) =>
      replyWithHeartbeat(c, { work, headers: () => ({ 'x-job': '1' }), onFailure: async () => '{"error":1}' }, within),
    )
    app.onError((thrown, c) => c.text(thrown.message, 418))
    return Promise.resolve(app.fetch(new Request(ORIGIN), env, createExecutionContext()))
  }

  test('begins with spaces, and is not compressed', async ({ expect }) => {
    const response = await replyTo(later(60).then(() => Response.json({ ok: 1 })))
    expect(response.headers.get('content-encoding')).toBe('identity')
    expect([response.status, response.headers.get('x-job')]).toEqual([200, '1'])
    const { text, isAborted } = await readAll(response)
    expect(text).toMatch(/^ {2,}\{"ok":1\}$/)
    expect([JSON.parse(text), isAborted]).toEqual([{ ok: 1 }, false])
  })

  test('that fails after its start ends with the error, and is aborted', async ({ expect }) => {
    const failing = later(60).then(() => Promise.reject(new Error('late')))
    expect(await readAll(await replyTo(failing))).toEqual({
      text: expect.stringMatching(/^ +\{"error":1\}$/),
      isAborted: true,
    })
  })

  const clients: [string, (from: typeof fetch) => Promise<unknown>][] = [
    [
      'openai',
      async (from) => {
        const client = new OpenAI({ apiKey: 'k', baseURL: ORIGIN, fetch: from, maxRetries: 0 })
        return (await client.images.generate({ prompt: 'a cat' })).data![0]!.b64_json
      },
    ],
    [
      'ai with @ai-sdk/openai-compatible',
      async (from) => {
        const provider = createOpenAICompatible({ name: 'octet', apiKey: 'k', baseURL: ORIGIN, fetch: from })
        const model = provider.imageModel('any')
        return (await generateImage({ model, prompt: 'a cat', maxRetries: 0 })).image.base64
      },
    ],
  ]
  test.for(clients)('is parsed by %s, which throws after a late failure', async ([, generateWith], { expect }) => {
    const succeedLate = () => later(60).then(() => Response.json({ data: [{ b64_json: 'AAAA' }] }))
    expect(await generateWith(() => replyTo(succeedLate()))).toBe('AAAA')
    const failLate = () => later(60).then(() => Promise.reject(new Error('late')))
    expect(await errorOf(generateWith(() => replyTo(failLate())))).toBeInstanceOf(Error)
  })

  test('that is ready early is the plain response', async ({ expect }) => {
    const slow = { startMs: 60_000, beatMs: 60_000 }
    expect(await (await replyTo(Promise.resolve(new Response('early')), slow)).text()).toBe('early')
    expect((await replyTo(Promise.reject(new Error('early')), slow)).status).toBe(418)
  })

  test('begins with a space before the result is available', async ({ expect }) => {
    const reader = (await replyTo(never)).body!.getReader()
    expect((await reader.read()).value).toEqual(new TextEncoder().encode(' '))
  })
})

test('a retry after a late failure gets the status of that failure, without a new job', async ({ expect }) => {
  const caller = await newCaller()
  let isReleased = false
  const fails = async () => [encodeLine({ type: 'failed', code: 'internal', message: 'secret' })]
  const calls = fakeGpu(holdUntil(() => isReleased, fails))
  const body = { prompt: 'a cat' }
  const first = await generate(caller, body)
  const job = first.headers.get('x-octet-job')
  expect([first.status, job]).toEqual([200, expect.stringMatching(/^job_/)])
  isReleased = true
  const { text, isAborted } = await readAll(first)
  expect(isAborted).toBe(true)
  expect(JSON.parse(text)).toMatchObject({ status: 500, error: { code: 'generation_failed' } })
  const attempts = calls.length
  const retry = await generate(caller, body)
  expect([retry.status, retry.headers.get('x-octet-job')]).toEqual([500, job])
  expect((await problemOf(retry)).error.code).toBe('generation_failed')
  expect([calls.length, await ledgerOf(caller)]).toEqual([attempts, { reserved: 0, captured: 0 }])
  expect((await fetchWorker(`/v1/jobs/${job}`, { headers: caller.headers })).status).toBe(200)
})

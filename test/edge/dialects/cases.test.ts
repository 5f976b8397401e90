// Errors, cancellations and retries in every dialect, in the terms and the format of its API.
import { createExecutionContext, waitOnExecutionContext } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { app } from '../../../edge/app.ts'
import { UNLIMITED } from '../../../edge/config/limits.ts'
import { type Caller, ledgerOf, newCaller, ORIGIN, send } from '../support/client.ts'
import {
  createAccepted,
  createFeed,
  createImage,
  createStarted,
  encodeLine,
  fakeGpu,
  timings,
  untilCanceled,
} from '../support/fake-gpu.ts'
import { waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

type Fields = { prompt: string; steps?: number }
type Errors = Record<string, unknown>
type Case = {
  path: string
  scheme: 'Basic' | 'Bearer' | 'Key' | 'Token'
  headers?: Record<string, string>
  body: (fields: Fields) => object | FormData
  /** The message of an error as the API's clients read it. */
  message: (error: Errors) => unknown
  badParameter: [status: number, name: string]
  /** The status of the reply to a job that was canceled. */
  canceled: number
}

const createForm = ({ prompt, steps }: Fields) => {
  const data = new FormData()
  data.append('prompt', prompt)
  // Stability's API has no steps.
  if (steps !== undefined) data.append('cfg_scale', String(steps))
  return data
}

const CASES: Record<string, Case> = {
  openai: {
    ...{ path: '/v1/images/generations', scheme: 'Bearer', body: (fields) => fields },
    message: ({ error }) => (error as { message: string }).message,
    ...{ badParameter: [400, 'steps is 1000'], canceled: 409 },
  },
  replicate: {
    ...{ path: '/v1/models/octet/tiny/predictions', scheme: 'Token', headers: { prefer: 'wait=20' } },
    body: ({ prompt, steps }) => ({ input: { prompt, ...(steps && { num_inference_steps: steps }) } }),
    message: ({ detail, status }) => detail ?? `The status is ${status}`,
    ...{ badParameter: [400, 'num_inference_steps is 1000'], canceled: 201 },
  },
  fal: {
    ...{ path: '/fal/run/octet/tiny', scheme: 'Key' },
    body: ({ prompt, steps }) => ({ prompt, ...(steps && { num_inference_steps: steps }) }),
    message: ({ message, detail }) => (Array.isArray(detail) ? (detail[0] as { msg: string }).msg : message),
    ...{ badParameter: [422, 'num_inference_steps is 1000'], canceled: 409 },
  },
  stability: {
    ...{
      path: '/v2beta/stable-image/generate/sd3',
      scheme: 'Bearer',
      headers: { accept: 'image/*' },
      body: createForm,
    },
    message: ({ errors }) => (errors as string[])[0],
    ...{ badParameter: [400, 'cfg_scale is "1000"'], canceled: 409 },
  },
  a1111: {
    ...{ path: '/sdapi/v1/txt2img', scheme: 'Basic', body: (fields) => fields },
    message: ({ detail }) => detail,
    ...{ badParameter: [400, 'steps is 1000'], canceled: 409 },
  },
  'hugging-face': {
    ...{ path: '/hf/tiny', scheme: 'Bearer' },
    body: ({ prompt, steps }) => ({ inputs: prompt, parameters: steps ? { num_inference_steps: steps } : {} }),
    message: ({ error }) => error,
    ...{ badParameter: [400, 'num_inference_steps is 1000'], canceled: 409 },
  },
}

/** Sends a request of a dialect over a connection that `cut` closes. */
function request({ path, scheme, headers = {}, body }: Case, key: string, fields: Fields) {
  const connection = new AbortController()
  const context = createExecutionContext()
  const content = body(fields)
  const isForm = content instanceof FormData
  const init = {
    method: 'POST',
    headers: {
      ...headers,
      authorization: `${scheme} ${scheme === 'Basic' ? btoa(`octet:${key}`) : key}`,
      ...(isForm ? {} : { 'content-type': 'application/json' }),
    },
    body: isForm ? content : JSON.stringify(content),
    signal: connection.signal,
  }
  const reply = Promise.resolve(app.fetch(new Request(`${ORIGIN}${path}`, init), env, context))
  return { reply, cut: () => connection.abort(), ended: () => waitOnExecutionContext(context) }
}

async function failureOf(each: Case, { key }: Pick<Caller, 'key'>, fields: Fields) {
  const response = await request(each, key, fields).reply
  const error = (await response.json()) as Errors
  return { status: response.status, headers: response.headers, message: String(each.message(error)) }
}

const prompt = 'a lighthouse'

describe.for(Object.entries(CASES))('%s', ([name, each]) => {
  test('refuses a bad key', async ({ expect }) => {
    const { status, message } = await failureOf(each, { key: 'nonsense' }, { prompt })
    expect([status, message]).toEqual([401, expect.stringContaining('This API key is invalid or was revoked.')])
  })

  test('refuses a bad parameter under the client’s name, at no cost', async ({ expect }) => {
    const caller = await newCaller()
    const { status, message } = await failureOf(each, caller, { prompt, steps: 1000 })
    const [wanted, words] = each.badParameter
    expect([status, message]).toEqual([wanted, expect.stringContaining(words)])
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })

  test('states the time of a retry after a rate limit', async ({ expect }) => {
    fakeGpu(untilCanceled(1))
    const caller = await newCaller({ limits: { ...UNLIMITED, concurrent_jobs: 1 } })
    const open = (await (await send('POST', '/v1/jobs', caller, { prompt: 'a cat' })).json()) as { id: string }
    const { status, headers, message } = await failureOf(each, caller, { prompt })
    expect([status, message]).toEqual([429, expect.stringContaining('concurrent jobs')])
    expect(Number(headers.get('retry-after'))).toBeGreaterThan(0)
    await send('DELETE', `/v1/jobs/${open.id}`, caller)
    await waitForEnd(open)
  })

  test('reports the cancellation to a waiting caller', async ({ expect }) => {
    const calls = fakeGpu(untilCanceled(1))
    const caller = await newCaller()
    const failure = failureOf(each, caller, { prompt })
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    await send('DELETE', `/v1/jobs/${calls[0]!.job}`, caller)
    const { status, message } = await failure
    expect([status, message]).toEqual([each.canceled, expect.stringContaining('canceled')])
  })

  // A prediction is created by each request, as at Replicate.
  if (name === 'replicate') return
  test('returns the same image to a client that retries after a timeout', async ({ expect }) => {
    const { behavior, send: feed, close } = createFeed()
    const calls = fakeGpu(behavior)
    const caller = await newCaller()
    const first = request(each, caller.key, { prompt })
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    first.cut()
    await first.ended()
    const second = request(each, caller.key, { prompt })
    const [seen] = calls
    feed(
      createAccepted(seen!),
      createStarted(seen!),
      ...(await createImage(seen!, 0)),
      encodeLine({ type: 'succeeded', images: 1, timings }),
    )
    close()
    const reply = await second.reply
    expect([reply.status, reply.headers.get('x-octet-job')]).toEqual([200, seen!.job])
    await reply.arrayBuffer()
    await Promise.all([first.reply, waitForEnd({ id: seen!.job })])
    expect(calls).toHaveLength(1)
  })
})

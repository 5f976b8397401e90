// The worker's reader of the GPU function's stream, with streams that are wrong, broken or silent.
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { LIMITS } from '#contract'
import { filesOf, generate, generatedOf, ledgerOf, newCaller, problemOf } from '../support/client.ts'
import {
  createAccepted,
  createImage,
  createStarted,
  encodeLine,
  fakeGpu,
  refuses,
  type SeenRequest,
  stream,
  timings,
  unreachable,
  works,
} from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const body = { prompt: 'a cat', seed: 1 }
const succeeded = encodeLine({ type: 'succeeded', images: 1, timings })
const begin = (seen: SeenRequest) => [createAccepted(seen), createStarted(seen)]

describe('a GPU that does not accept the job yet', () => {
  test.for([
    ['503', refuses(503, 'loading')],
    ['503 with Retry-After', refuses(503, 'draining', { 'retry-after': '1' })],
    ['429', refuses(429, 'queue_full')],
    ['502 of a proxy', () => new Response('<html>', { status: 502 })],
    ['504 of a proxy', () => new Response(null, { status: 504 })],
    ['500 before a stream', refuses(500, 'internal')],
    ['520 of a proxy', () => new Response(null, { status: 520 })],
    ['530 of a proxy', () => new Response(null, { status: 530 })],
    ['no connection', unreachable],
  ] as const)('is offered the job again: %s', async ([, refusal], { expect }) => {
    const calls = fakeGpu(refusal, works)
    const response = await generate(await newCaller(), body)
    expect(response.status).toBe(200)
    expect(calls.map(({ request }) => request.attempt)).toEqual([1, 1])
  })

  test('fails the job at the deadline: 503, no charge, and the reason in the job', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(refuses(503, 'loading'))
    const response = await generate(caller, body)
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('30')
    expect((await problemOf(response)).error.code).toBe('gpu_unavailable')
    const job = await env.JOB.getByName(response.headers.get('x-octet-job')!).view()
    expect(job).toMatchObject({ state: 'failed', attempt: 1, settled: true, error: { code: 'gpu_unavailable' } })
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })

  test('receives the job with an opaque tenant, its class, its remaining time and a trace', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    await generate(caller, { ...body, route: 'turbo', max_latency_ms: 600_000 })
    await generate(caller, { ...body, route: 'full', steps: 4 })
    const [first, second] = calls.map(({ request }) => request.schedule!)
    expect(first).toMatchObject({ tenant: expect.stringMatching(/^[0-9a-f]{32}$/), weight: 1, interactive: true })
    expect(first!.max_latency_ms).toBeGreaterThan(500_000)
    expect(first!.max_latency_ms).toBeLessThanOrEqual(600_000)
    expect(second).toEqual({ tenant: first!.tenant, weight: 1, interactive: false })
    expect(calls.map(({ headers }) => headers.get('octet-model'))).toEqual(['tiny:fp8', 'tiny:fp8'])
    for (const { headers } of calls) expect(headers.get('traceparent')).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/)
  })

  test('receives a job after its deadline with the minimum remaining time, and refuses it', async ({ expect }) => {
    const calls = fakeGpu(refuses(503, 'loading', { 'retry-after': '1' }), refuses(429, 'deadline_unmet'))
    const response = await generate(await newCaller(), { ...body, max_latency_ms: 500 })
    expect(calls.map(({ request }) => request.schedule?.max_latency_ms)).toEqual([expect.any(Number), 1])
    expect((await problemOf(response)).error.code).toBe('max_latency_exceeded')
  })

  test('ends the job immediately, free of charge, if it cannot meet the deadline', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(refuses(429, 'deadline_unmet', { 'retry-after': '7' }))
    const response = await generate(caller, { ...body, max_latency_ms: 1_000 })
    expect(calls).toHaveLength(1)
    expect(response.status).toBe(422)
    const { error } = await problemOf(response)
    expect(error.code).toBe('max_latency_exceeded')
    expect(error.message).toContain('try again in 7 seconds')
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })

  test('leaves the job in the state starting', async ({ expect }) => {
    const states: (string | undefined)[] = []
    const look = async ({ job }: SeenRequest) => states.push((await env.JOB.getByName(job).view())?.state)
    fakeGpu(
      async (seen) => {
        await look(seen)
        return refuses(503, 'loading')(seen)
      },
      async (seen) => {
        await look(seen)
        return works(seen)
      },
    )
    await generate(await newCaller(), body)
    expect(states).toEqual(['starting', 'starting'])
  })
})

describe('a stream that violates the contract is abandoned, and the next attempt generates the image', () => {
  const spoiled: [string, string, (seen: SeenRequest) => Promise<Response> | Response][] = [
    ['ends before the job does', 'ended before the job did', (seen) => stream(begin(seen))],
    [
      'is cut inside a line',
      'ended inside a line',
      (seen) => stream([...begin(seen), encodeLine({ type: 'heartbeat' }).slice(0, 5)]),
    ],
    [
      'is cut inside an image',
      'connection broke',
      async (seen) => stream([...begin(seen), (await createImage(seen, 0))[0]!, new Uint8Array(99)], 'cut'),
    ],
    [
      'ends inside an image',
      '4901 bytes before the end of an image',
      async (seen) => stream([...begin(seen), (await createImage(seen, 0))[0]!, new Uint8Array(99)]),
    ],
    ['falls silent', 'no data for 500 ms', (seen) => stream(begin(seen), 'silence')],
    [
      'falls silent inside an image',
      'no data for 500 ms',
      async (seen) => stream([...begin(seen), (await createImage(seen, 0))[0]!, new Uint8Array(9)], 'silence'),
    ],
    [
      'has an unknown event',
      'not an event of the contract',
      (seen) => stream([...begin(seen), encodeLine({ type: 'party' }), succeeded]),
    ],
    [
      'has an unknown field',
      'not an event of the contract',
      (seen) => stream([...begin(seen), encodeLine({ type: 'heartbeat', mood: 1 }), succeeded]),
    ],
    [
      'is no JSON',
      'not an event of the contract',
      (seen) => stream([...begin(seen), new TextEncoder().encode('hello\n')]),
    ],
    ['is no UTF-8', 'not an event of the contract', (seen) => stream([...begin(seen), Uint8Array.of(0xff, 0xfe, 10)])],
    [
      'has a line without an end',
      'longer than 65536 bytes',
      (seen) => stream([...begin(seen), new Uint8Array(LIMITS.eventLineBytes + 1).fill(97)], 'silence'),
    ],
    [
      'has an image over the limit',
      'not an event of the contract',
      async (seen) => stream([...begin(seen), ...(await createImage(seen, 0, { bytes: LIMITS.imageBytes + 1 }))]),
    ],
    [
      'has an image with the wrong digest',
      'does not match its SHA-256',
      async (seen) => stream([...begin(seen), ...(await createImage(seen, 0, { sha256: 'f'.repeat(64) })), succeeded]),
    ],
    [
      'has another seed',
      'type image is not about',
      async (seen) => stream([...begin(seen), ...(await createImage(seen, 0, { seed: 2 })), succeeded]),
    ],
    [
      'has another size',
      'type image is not about',
      async (seen) => stream([...begin(seen), ...(await createImage(seen, 0, { width: 64 })), succeeded]),
    ],
    [
      'has another format',
      'type image is not about',
      async (seen) =>
        stream([...begin(seen), ...(await createImage(seen, 0, { content_type: 'image/webp' })), succeeded]),
    ],
    [
      'has one image too many',
      'type image is not about',
      async (seen) => stream([...begin(seen), ...(await createImage(seen, 1)), succeeded]),
    ],
    [
      'belongs to another job',
      'type accepted is not about',
      (seen) => stream([createAccepted({ ...seen, job: 'other' }), succeeded]),
    ],
    [
      'belongs to another model',
      'type started is not about',
      () =>
        stream([
          encodeLine({ type: 'started', model: 'x', tier: 'fp8', package: 'a'.repeat(64), device: '' }),
          succeeded,
        ]),
    ],
    ['succeeds without images', 'images are missing', (seen) => stream([...begin(seen), succeeded])],
    ['is answered 501', '501: oops', () => new Response('oops', { status: 501 })],
    [
      'is answered by a redirect',
      '302',
      () => new Response(null, { status: 302, headers: { location: 'https://elsewhere.test' } }),
    ],
  ]
  test.for(spoiled)('%s', async ([, reason, behavior], { expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(behavior, works)
    const { octet, data } = await generatedOf(await generate(caller, body))
    expect(calls.map(({ request }) => request.attempt)).toEqual([1, 2])
    expect(octet.attempts).toBe(2)
    expect(data).toHaveLength(1)
    expect(await filesOf(caller)).toHaveLength(1)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: octet.price_microdollars })
    const events = (await env.JOB.getByName(octet.job).events()).map(({ event, attempt }) => ({ attempt, ...event }))
    const lost = events.filter(({ type }) => type === 'lost')
    expect(lost).toEqual([{ type: 'lost', attempt: 1, reason: expect.stringContaining(reason) }])
    expect(events.at(-1)).toMatchObject({ type: 'succeeded', attempt: 2 })
  })

  test('fails the job after three times, free of charge', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu((seen) => stream(begin(seen)))
    const response = await generate(caller, body)
    expect(response.status).toBe(500)
    expect((await problemOf(response)).error.code).toBe('generation_failed')
    expect(calls).toHaveLength(3)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })
})

describe('a job ended by the GPU function', () => {
  const endWith = (end: Record<string, unknown>) => (seen: SeenRequest) => stream([...begin(seen), encodeLine(end)])

  test('because of an invalid request is a 400 with the GPU function’s message, after one attempt', async ({
    expect,
  }) => {
    const caller = await newCaller()
    const message = 'width is 1024; this model makes at most 512.'
    const calls = fakeGpu(endWith({ type: 'failed', code: 'invalid_request', message }))
    const response = await generate(caller, body)
    expect([response.status, (await problemOf(response)).detail]).toEqual([400, message])
    expect(calls).toHaveLength(1)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })

  test.for(['model_not_available', 'out_of_memory', 'internal'])(
    'because of a service fault (%s) at every attempt is a 500 with a generic message',
    async (code, { expect }) => {
      const caller = await newCaller()
      const calls = fakeGpu(endWith({ type: 'failed', code, message: 'secret: cudaMalloc' }))
      const response = await generate(caller, body)
      expect(response.status).toBe(500)
      expect(calls.map(({ request }) => request.attempt)).toEqual([1, 2, 3])
      expect(await response.text()).not.toContain('secret')
      expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
    },
  )

  test.for(['model_not_available', 'out_of_memory', 'internal'])(
    'because of a service fault (%s) is retried once and then generates the image',
    async (code, { expect }) => {
      const caller = await newCaller()
      fakeGpu(endWith({ type: 'failed', code, message: 'cudaMalloc' }), works)
      const { octet } = await generatedOf(await generate(caller, body))
      expect(octet.attempts).toBe(2)
      const events = (await env.JOB.getByName(octet.job).events()).map(({ event }) => event)
      expect(events.map(({ type }) => type)).not.toContain('failed')
      expect(events).toContainEqual({ type: 'lost', reason: `${code}: cudaMalloc` })
      expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: octet.price_microdollars })
    },
  )

  test('by a cancellation without a request, at every attempt, is free of charge', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(endWith({ type: 'canceled', steps_done: 2, timings }))
    expect((await generate(caller, body)).status).toBe(500)
    expect(calls).toHaveLength(3)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })

  test('with warnings returns these to the caller', async ({ expect }) => {
    const warning = { code: 'prompt_truncated', message: 'CLIP read 77 of 90 tokens' }
    fakeGpu(async (seen) =>
      stream([...begin(seen), encodeLine({ type: 'warning', ...warning }), ...(await createImage(seen, 0)), succeeded]),
    )
    expect((await generatedOf(await generate(await newCaller(), body))).octet.warnings).toEqual([warning])
  })
})

test('a token already used by a proxy is replaced by a new one', async ({ expect }) => {
  const calls = fakeGpu(refuses(401, 'token_replayed'), works)
  const { octet } = await generatedOf(await generate(await newCaller(), body))
  expect(octet.attempts).toBe(1)
  const tokens = calls.map(({ headers }) => headers.get('authorization'))
  expect(new Set(tokens).size).toBe(2)
})

// GET /v1/jobs/{id}/events: replays past events, streams new ones, and resumes after Last-Event-ID.
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { streamEvents } from '../../../edge/jobs/events.ts'
import { MAX_READERS } from '../../../edge/jobs/job.ts'
import type { JobRecord } from '../../../edge/jobs/record.ts'
import { type Caller, newCaller, problemOf, readJob, send } from '../support/client.ts'
import {
  createAccepted,
  createFeed,
  createImage,
  createStarted,
  createSteps,
  encodeLine,
  fakeGpu,
  refuses,
  stream,
  timings,
  works,
} from '../support/fake-gpu.ts'
import { jobOf, reset, waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

type Message = { id: string; event: string; data: Record<string, unknown> }

/** Reads messages from a response until it ends or `enough` messages have arrived. */
async function readMessages(response: Response, enough = Number.POSITIVE_INFINITY): Promise<Message[]> {
  const found: Message[] = []
  let text = ''
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
  for (
    let chunk = await reader.read();
    !chunk.done;
    chunk = found.length < enough ? await reader.read() : { done: true, value: undefined }
  ) {
    text += chunk.value
    const blocks = text.split('\n\n')
    text = blocks.pop()!
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split('\n').map((each) => each.split(/: (.*)/s).slice(0, 2)))
      found.push({ id: fields.id, event: fields.event, data: JSON.parse(fields.data) })
    }
  }
  if (found.length >= enough) await reader.cancel()
  return found
}

const follow = (caller: Caller, id: string, headers: Record<string, string> = {}) =>
  send('GET', `/v1/jobs/${id}/events`, caller, undefined, headers)
const submitForId = async (caller: Caller, fields: object = {}) =>
  (await readJob(await send('POST', '/v1/jobs', caller, { prompt: 'a cat', ...fields }))).id

describe('the events of a job', () => {
  test('are streamed as they occur, and the terminal event ends the stream', async ({ expect }) => {
    const caller = await newCaller()
    const { behavior, send: feed } = createFeed()
    const calls = fakeGpu(behavior)
    const id = await submitForId(caller)
    const response = await follow(caller, id)
    expect(response.headers.get('content-type')).toBe('text/event-stream')
    const all = readMessages(response)
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    const [seen] = calls
    feed(createAccepted(seen!), createStarted(seen!), ...createSteps(2, 4), ...(await createImage(seen!, 0)))
    feed(encodeLine({ type: 'succeeded', images: 1, timings }))

    const received = await all
    expect(received.map(({ event }) => event)).toEqual([
      'queued',
      'starting',
      'starting',
      'running',
      'step',
      'step',
      'image',
      'succeeded',
    ])
    expect(received.map(({ id }) => Number(id))).toEqual(received.map((_, k) => k + 1))
    expect(received[5]!.data).toMatchObject({ type: 'step', job: id, attempt: 1, image: 0, step: 2, steps: 4 })
    const [finished] = received.at(-1)!.data.images as { url: string }[]
    expect((await send('GET', finished!.url, caller)).status).toBe(200)
    expect(JSON.stringify(received)).not.toContain('results/' + '30d')
  })

  test('are replayed unchanged after any Last-Event-ID, followed by live events', async ({ expect }) => {
    const caller = await newCaller()
    const { behavior, send: feed } = createFeed()
    const calls = fakeGpu(behavior)
    const id = await submitForId(caller)
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    const [seen] = calls
    feed(createAccepted(seen!), createStarted(seen!), ...createSteps(1, 4))
    const before = await readMessages(await follow(caller, id), 5)
    const rest = readMessages(await follow(caller, id, { 'last-event-id': before[2]!.id }))
    feed(...(await createImage(seen!, 0)), encodeLine({ type: 'succeeded', images: 1, timings }))
    const after = await rest
    const whole = await readMessages(await follow(caller, id))
    expect(whole.slice(0, 5)).toEqual(before)
    expect(whole.slice(3)).toEqual(after)
    for (const { id: last } of whole.slice(0, -1)) {
      const part = await readMessages(await follow(caller, id, { 'last-event-id': last }))
      expect(part).toEqual(whole.slice(Number(last)))
    }
    const nothing = await follow(caller, id, { 'last-event-id': whole.at(-1)!.id })
    expect([nothing.status, await nothing.text()]).toEqual([204, ''])
  })

  test('include the events of a failed attempt and of its retry', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu((seen) => stream([createAccepted(seen), createStarted(seen)]), works)
    const id = await submitForId(caller)
    const events = (await readMessages(await follow(caller, id))).map(({ event }) => event)
    expect(events).toEqual([
      ...['queued', 'starting', 'starting', 'running', 'retrying'],
      ...['starting', 'starting', 'running', 'step', 'step', 'step', 'step', 'image', 'succeeded'],
    ])
    expect((await waitForEnd({ id })).attempt).toBe(2)
  })

  test('contain the public error of a failed job and no internal details', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu((seen) =>
      stream([
        createAccepted(seen),
        createStarted(seen),
        encodeLine({ type: 'failed', code: 'internal', message: 'secret: cudaMalloc' }),
      ]),
    )
    const received = await readMessages(await follow(caller, await submitForId(caller)))
    expect(received.at(-1)).toMatchObject({ event: 'failed', data: { error: { code: 'generation_failed' } } })
    expect(JSON.stringify(received)).not.toContain('secret')
  })

  test('include previews if requested', async ({ expect }) => {
    const caller = await newCaller()
    const shape = { width: 32, height: 32, content_type: 'image/jpeg' }
    const calls = fakeGpu(async (seen) =>
      stream([
        ...[createAccepted(seen), createStarted(seen), ...createSteps(1, 4)],
        ...[encodeLine({ type: 'preview', image: 0, step: 1, ...shape, bytes: 3 }), Uint8Array.of(1, 2, 3)],
        ...[...(await createImage(seen, 0)), encodeLine({ type: 'succeeded', images: 1, timings })],
      ]),
    )
    const received = await readMessages(await follow(caller, await submitForId(caller, { preview: true })))
    expect(calls[0]!.request.preview_steps).toBe(1)
    expect(received.find(({ event }) => event === 'preview')!.data).toMatchObject({
      ...{ image: 0, step: 1, content_type: 'image/jpeg', b64_json: 'AQID' },
    })
  })

  test.for([
    [{ preview: true }, 7],
    [{ partial_images: 1 }, 14],
    [{ partial_images: 0, preview: true }, undefined],
    [{}, undefined],
  ] as const)('%j requests a preview every %s steps of 28', async ([fields, expected], { expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    await waitForEnd({ id: await submitForId(caller, { route: 'full', ...fields }) })
    expect(calls[0]!.request.preview_steps).toBe(expected)
  })

  test('are rejected for an invalid Last-Event-ID', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    const id = await submitForId(caller)
    const response = await follow(caller, id, { 'last-event-id': 'x' })
    expect([response.status, (await problemOf(response)).detail]).toEqual([
      400,
      'Last-Event-ID is "x"; it must be the id of an event.',
    ])
    await waitForEnd({ id })
  })
})

test('an idle stream is kept open by comments', async ({ expect }) => {
  const { promise: never } = Promise.withResolvers<void>()
  const job = { state: 'starting' } as JobRecord
  const quiet = { after: () => [], job: () => job, changed: () => never }
  const reader = streamEvents(
    quiet,
    0,
    async () => null,
    () => {},
    10,
  ).getReader()
  for (let k = 0; k < 3; k++) expect(new TextDecoder().decode((await reader.read()).value)).toBe(': ping\n\n')
  await reader.cancel()
})

test('a reader that disconnects does not affect the job', async ({ expect }) => {
  const caller = await newCaller()
  const { behavior, send: feed } = createFeed()
  const calls = fakeGpu(behavior)
  const id = await submitForId(caller)
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  await readMessages(await follow(caller, id), 1)
  feed(createAccepted(calls[0]!), createStarted(calls[0]!), ...(await createImage(calls[0]!, 0)))
  feed(encodeLine({ type: 'succeeded', images: 1, timings }))
  expect((await waitForEnd({ id })).state).toBe('succeeded')
  expect(await jobOf({ id }).events()).toHaveLength(6)
})

test('a stream continues across a reset of the job and contains each event once', async ({ expect }) => {
  const caller = await newCaller()
  const first = createFeed()
  const second = createFeed()
  const calls = fakeGpu(first.behavior, second.behavior)
  const id = await submitForId(caller)
  const all = readMessages(await follow(caller, id))
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  first.send(createAccepted(calls[0]!), createStarted(calls[0]!), ...createSteps(2, 4))
  await vi.waitFor(async () => expect((await jobOf({ id }).view())?.progress).toMatchObject({ step: 2 }))
  await reset(jobOf({ id }))
  await vi.waitFor(() => expect(calls).toHaveLength(2))
  second.send(createAccepted(calls[1]!), createStarted(calls[1]!), ...(await createImage(calls[1]!, 0)))
  second.send(encodeLine({ type: 'succeeded', images: 1, timings }))
  const ids = (await all).map((message) => Number(message.id))
  const log = await jobOf({ id }).events()
  expect(ids).toEqual(log.map(({ seq }) => seq))
})

test('a job rejects streams above its maximum, and closing a stream frees its place', async ({ expect }) => {
  const caller = await newCaller()
  const { behavior } = createFeed()
  fakeGpu(behavior)
  const id = await submitForId(caller)
  const open = await Promise.all(Array.from({ length: MAX_READERS }, () => follow(caller, id)))
  expect(open.every(({ status }) => status === 200)).toBe(true)
  const refused = await follow(caller, id)
  expect([refused.status, (await problemOf(refused)).error.code]).toEqual([429, 'rate_limited'])
  await readMessages(open[0]!, 1)
  await vi.waitFor(async () => {
    const again = await follow(caller, id)
    await again.body?.cancel()
    expect(again.status).toBe(200)
  })
  await Promise.all(open.slice(1).map((response) => response.body?.cancel()))
  await jobOf({ id }).cancel()
})

test('a stream ends within 30 seconds after its key is revoked', async ({ expect }) => {
  const caller = await newCaller()
  const { behavior, send: feed } = createFeed()
  const calls = fakeGpu(behavior)
  const id = await submitForId(caller)
  const all = readMessages(await follow(caller, id))
  await vi.waitFor(() => expect(calls).toHaveLength(1))
  await env.ACCOUNT.getByName(caller.account).revokeKey(caller.keyId)
  const later = Date.now() + 31_000
  vi.spyOn(Date, 'now').mockReturnValue(later)
  feed(createAccepted(calls[0]!), createStarted(calls[0]!), ...createSteps(1, 4))
  const events = (await all).map(({ event }) => event)
  expect(events).not.toContain('step')
  vi.mocked(Date.now).mockRestore()
  await jobOf({ id }).cancel()
})

test('an idle stream survives many consecutive resets', async ({ expect }) => {
  const caller = await newCaller()
  const calls = fakeGpu(refuses(503, 'loading'), works)
  const id = await submitForId(caller)
  const all = readMessages(await follow(caller, id))
  for (let resets = 0; resets < 8; resets++) {
    await new Promise((resolve) => setTimeout(resolve, 120))
    await reset(jobOf({ id }))
  }
  const events = await all
  expect(events.at(-1)!.event).toBe('succeeded')
  expect(new Set(events.map((event) => event.id)).size).toBe(events.length)
  expect(calls.length).toBeGreaterThan(1)
})

// The MCP server, with the official SDK's client in both of its protocol versions.
import { env } from 'cloudflare:workers'
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { afterEach, describe, test, vi } from 'vitest'
import { type Caller, fetchWorker, ledgerOf, newCaller, ORIGIN, send } from '../support/client.ts'
import {
  createAccepted,
  createFeed,
  createImage,
  createImageBytes,
  createStarted,
  encodeLine,
  fakeGpu,
  refuses,
  stream,
  timings,
  untilCanceled,
  works,
} from '../support/fake-gpu.ts'
import { waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

type Mode = 'auto' | 'legacy'
async function connect({ key }: Pick<Caller, 'key'>, mode: Mode = 'auto'): Promise<Client> {
  const client = new Client(
    { name: 'test', version: '1' },
    mode === 'auto' ? { versionNegotiation: { mode: 'auto' } } : {},
  )
  const transport = new StreamableHTTPClientTransport(new URL(`${ORIGIN}/mcp`), {
    fetch: (url, init) => fetchWorker(String(url), init as RequestInit),
    requestInit: { headers: { authorization: `Bearer ${key}` } },
  })
  await client.connect(transport)
  return client
}

type Result = {
  isError?: boolean
  content: { type: string; text?: string; data?: string; mimeType?: string; uri?: string }[]
  structuredContent?: { id: string; price_microdollars: number; images: { url: string; seed: number }[] }
}
const call = async (client: Client, name: string, fields: object) =>
  (await client.callTool({ name, arguments: fields as Record<string, unknown> })) as unknown as Result
const prompt = 'a lighthouse'

describe.for<Mode>(['auto', 'legacy'])('a client of the protocol version %s', (mode) => {
  test('lists the tools, and generates images as links with a preview', async ({ expect }) => {
    fakeGpu(works)
    const caller = await newCaller()
    const client = await connect(caller, mode)
    const { tools } = await client.listTools()
    expect(tools.map(({ name }) => name)).toEqual(['generate_image', 'quote_image', 'get_job'])
    expect(tools[0]!.inputSchema).toMatchObject({ required: ['prompt'] })
    const { content, structuredContent } = await call(client, 'generate_image', { prompt, seed: 7, n: 2 })
    expect(content.map(({ type }) => type)).toEqual(['text', 'image', 'resource_link', 'resource_link'])
    expect(Uint8Array.fromBase64(content[1]!.data!)).toEqual(createImageBytes(7))
    expect(await (await fetchWorker(content[3]!.uri!)).bytes()).toEqual(createImageBytes(8))
    expect(structuredContent!.images.map(({ seed }) => seed)).toEqual([7, 8])
    expect(content[0]!.text).toContain(structuredContent!.images[0]!.url)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: structuredContent!.price_microdollars })
    await client.close()
  })
})

describe('a tool', () => {
  test('quotes the exact price of the request', async ({ expect }) => {
    fakeGpu(works)
    const client = await connect(await newCaller())
    const quote = await call(client, 'quote_image', { prompt, n: 2 })
    expect(quote.content[0]!.text).toMatch(/^The request costs \$0\.\d+: tiny, turbo route, 256x256\. /)
    const made = await call(client, 'generate_image', { prompt, n: 2 })
    expect(made.structuredContent!.price_microdollars).toBe(quote.structuredContent!.price_microdollars)
  })

  test('reports progress while it waits, and ends with the job', async ({ expect }) => {
    const { behavior, send: feed, close } = createFeed()
    fakeGpu(async (seen) => {
      feed(createAccepted(seen), createStarted(seen), encodeLine({ type: 'step', image: 0, step: 1, steps: 4 }))
      const beat = setInterval(() => feed(encodeLine({ type: 'heartbeat' })), 100)
      setTimeout(async () => {
        clearInterval(beat)
        feed(...(await createImage(seen, 0)), encodeLine({ type: 'succeeded', images: 1, timings }))
        close()
      }, 1500)
      return behavior(seen)
    })
    const client = await connect(await newCaller())
    const messages: unknown[] = []
    const onprogress = ({ message }: { message?: string | undefined }) => void messages.push(message)
    const made = await client.callTool({ name: 'generate_image', arguments: { prompt } }, { onprogress })
    expect((made as unknown as Result).structuredContent!.images).toHaveLength(1)
    expect(messages).toEqual([expect.stringMatching(/^(waiting for a GPU|running|image 1: step 1 of 4)$/)])
  })

  test('that is called again during the job joins it: one job, one price', async ({ expect }) => {
    const { behavior, send: feed, close } = createFeed()
    const calls = fakeGpu(behavior)
    const caller = await newCaller()
    const client = await connect(caller)
    const first = call(client, 'generate_image', { prompt })
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    const again = call(client, 'generate_image', { prompt })
    await vi.waitFor(async () => expect((await ledgerOf(caller)).reserved).toBeGreaterThan(0))
    const [seen] = calls
    await new Promise((resolve) => setTimeout(resolve, 100))
    feed(
      createAccepted(seen!),
      createStarted(seen!),
      ...(await createImage(seen!, 0)),
      encodeLine({ type: 'succeeded', images: 1, timings }),
    )
    close()
    const results = await Promise.all([first, again])
    expect(new Set(results.map(({ structuredContent }) => structuredContent!.id))).toEqual(new Set([seen!.job]))
    expect(results[1].content[0]!.text).toContain('Warning: An equal request of this key was running')
    expect(await ledgerOf(caller)).toEqual({
      reserved: 0,
      captured: results[0].structuredContent!.price_microdollars,
    })
  })

  test('finds a job, including a canceled one', async ({ expect }) => {
    fakeGpu(untilCanceled(1))
    const caller = await newCaller()
    const { id } = (await (await send('POST', '/v1/jobs', caller, { prompt })).json()) as { id: string }
    await send('DELETE', `/v1/jobs/${id}`, caller)
    await waitForEnd({ id })
    const client = await connect(caller)
    const { isError, content } = await call(client, 'get_job', { id })
    expect([isError, content[0]!.text]).toEqual([true, expect.stringContaining(`The job ${id} canceled: `)])
    const unknown = await call(client, 'get_job', { id: 'job_unknown' })
    expect(unknown).toMatchObject({ isError: true, content: [{ text: 'There is no job job_unknown.' }] })
  })

  test('describes errors as text, and charges nothing', async ({ expect }) => {
    const caller = await newCaller()
    const client = await connect(caller)
    const errorOf = async (fields: object) => {
      const { isError, content } = await call(client, 'generate_image', fields)
      return isError ? content[0]!.text : 'no error'
    }
    expect(await errorOf({ prompt, n: 99 })).toBe('n is 99; it must be an integer from 1 to 8.')
    expect(await errorOf({ prompt, model: 'other' })).toContain('this deployment serves auto, tiny, paired')
    expect(await errorOf({ prompt, max_cost: 0 })).toMatch(/cost/)
    expect(await errorOf({ n: 1 })).toMatch(/prompt/)
    fakeGpu(refuses(422, 'invalid_request'))
    expect(await errorOf({ prompt })).toContain('could not be made')
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
  })

  test('sends a preview in place of a file that is too large for a reply', async ({ expect }) => {
    const preview = new Uint8Array([1, 2, 3])
    const facts = { width: 16, height: 16, content_type: 'image/webp', bytes: 3 }
    fakeGpu(async (seen) => {
      const data = new Uint8Array(100_000)
      const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', data)).toHex()
      const [imageLine] = await createImage(seen, 0, { sha256: digest, bytes: data.length })
      return stream([
        ...[createAccepted(seen), createStarted(seen)],
        ...[encodeLine({ type: 'preview', image: 0, step: 2, ...facts }), preview],
        ...[imageLine!, data, encodeLine({ type: 'succeeded', images: 1, timings })],
      ])
    })
    const { content } = await call(await connect(await newCaller()), 'generate_image', { prompt })
    expect(content.map(({ type, mimeType }) => [type, mimeType])).toEqual([
      ['text', undefined],
      ['image', 'image/webp'],
      ['resource_link', 'image/png'],
    ])
    expect(JSON.stringify(content).length).toBeLessThan(5_000)
  })
})

test('a request without a valid key is refused with a challenge, and another method with the allowed methods', async ({
  expect,
}) => {
  const ping = { jsonrpc: '2.0', id: 1, method: 'ping' }
  const errorOf = await send('POST', '/mcp', { headers: {} }, ping)
  expect([errorOf.status, errorOf.headers.get('www-authenticate')]).toEqual([401, 'Bearer realm="octet"'])
  await expect(connect({ key: 'nonsense' })).rejects.toThrow()
  const get = await send('GET', '/mcp', await newCaller())
  expect([get.status, get.headers.get('allow')]).toEqual([405, 'POST'])
})

test('each message of a batch counts toward the request rate limit', async ({ expect }) => {
  const caller = await newCaller()
  const limit = vi.spyOn(env.REQUEST_LIMIT, 'limit')
  const quote = (id: number) => ({
    ...{ jsonrpc: '2.0', id, method: 'tools/call' },
    params: { name: 'quote_image', arguments: { prompt } },
  })
  const post = (body: unknown) => send('POST', '/mcp', caller, body, { accept: 'application/json, text/event-stream' })
  const response = await post([1, 2, 3].map(quote))
  expect([response.status, (await response.text()).match(/The request costs/g)?.length]).toEqual([200, 3])
  expect(limit).toHaveBeenCalledTimes(3)
  limit.mockReset().mockResolvedValueOnce({ success: true }).mockResolvedValue({ success: false })
  expect((await post([1, 2, 3].map(quote))).status).toBe(429)
})

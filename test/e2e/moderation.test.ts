// The moderation service of OCTET_CONTENT_POLICY over real sockets: the worker in workerd, and a local HTTP server as the service.
import { once } from 'node:events'
import fs from 'node:fs/promises'
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import OpenAI, { APIError } from 'openai'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type GpuStub, startGpuStub } from '../../infra/bench/edge/gpu-stub.ts'
import { startWorker } from '../../infra/local/servers/worker.ts'
import { createKey } from '../../infra/operator/keys.ts'
import { createSecrets } from '../../infra/operator/secrets.ts'

type ModerationRequest = {
  method: string
  path: string
  headers: IncomingHttpHeaders
  body: { model: string; input: string }
}
type Mode = 'allow' | 'refuse'
type Worker = { url: string; client: OpenAI; operator: Record<string, string> }

const createResult = (flagged: boolean, categories = {}) => JSON.stringify({ results: [{ flagged, categories }] })
/** Replies by the first word of the prompt. */
const REPLIES: Record<string, (response: ServerResponse) => unknown> = {
  allowed: (response) => response.end(createResult(false, { violence: false, illicit: null })),
  flagged: (response) => response.end(createResult(true, { violence: true, hate: false })),
  silent: () => 'no reply',
  stalled: (response) => response.write('{"results": ['),
  oversized: (response) => response.end(`${' '.repeat(70_000)}${createResult(false)}`),
  malformed: (response) => response.end('{"results": []}'),
  failing: (response) => response.writeHead(500).end(createResult(false)),
  moved: (response) => response.writeHead(307, { location: '/elsewhere' }).end(),
}
const FAULTS = ['silent', 'stalled', 'oversized', 'malformed', 'failing', 'moved']

const stops: (() => Promise<unknown>)[] = []
const seen: ModerationRequest[] = []
const workers = {} as Record<Mode, Worker>
let gpu: GpuStub

async function startService(): Promise<string> {
  const server = createServer(async (request, response) => {
    const body = JSON.parse(await text(request))
    seen.push({ method: request.method!, path: request.url!, headers: request.headers, body })
    REPLIES[body.input.split(' ')[0]]!(response)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  stops.push(async () => server.close(() => server.closeAllConnections()))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
}

async function startIn(mode: Mode, service: string): Promise<Worker> {
  const persist = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-moderation-'))
  stops.push(() => fs.rm(persist, { recursive: true }))
  const { secrets } = await createSecrets()
  const moderation = { url: service, model: 'a-moderator', timeout_seconds: 0.5, on_error: mode }
  const vars = { OCTET_CONTENT_POLICY: JSON.stringify({ block: ['unspeakable'], moderation }) }
  const worker = await startWorker({
    ...{ gpuUrl: gpu.url, persist, vars },
    secrets: { ...secrets, MODERATION_API_KEY: 'the key' },
  })
  stops.push(worker.stop)
  const { key } = await createKey({ url: worker.url, token: secrets.OCTET_ADMIN_TOKEN }, 'moderated')
  const client = new OpenAI({ apiKey: key, baseURL: `${worker.url}/v1`, maxRetries: 0 })
  return { url: worker.url, client, operator: { authorization: `Bearer ${secrets.OCTET_ADMIN_TOKEN}` } }
}

beforeAll(async () => {
  gpu = await startGpuStub()
  stops.push(gpu.stop)
  const service = await startService()
  for (const mode of ['allow', 'refuse'] as const) workers[mode] = await startIn(mode, service)
})
afterAll(async () => {
  for (const stop of stops.reverse()) await stop()
})
beforeEach(() => {
  seen.length = 0
})

type Reply = { octet: { job: string } }
const generate = async ({ client }: Worker, prompt: string, fields: object = {}) =>
  (await client.images.generate({ prompt, model: 'auto', ...fields })) as unknown as Reply
const refusalOf = (worker: Worker, prompt: string) =>
  generate(worker, prompt).then(
    () => {
      throw new Error('the prompt was not refused')
    },
    (error) => error as APIError,
  )

async function get<T>({ url, operator }: Worker, path: string): Promise<T> {
  return (await fetch(new URL(path, url), { headers: operator })).json() as Promise<T>
}
const verdictOf = async (worker: Worker, job: string) =>
  (await get<{ job: { content: unknown } }>(worker, `/v1/operator/jobs/${job}`)).job.content
const moneyOf = async (worker: Worker) => {
  type Money = Record<'captured_microdollars' | 'reserved_microdollars' | 'open_jobs', number>
  const { captured_microdollars, reserved_microdollars, open_jobs } = await get<Money>(worker, '/v1/accounts/moderated')
  return { captured_microdollars, reserved_microdollars, open_jobs }
}

describe.each(['allow', 'refuse'] as const)('on_error %s', (mode) => {
  test('an image of an allowed prompt is generated, and its job contains the verdict', async () => {
    const { octet } = await generate(workers[mode], 'allowed cat', { prompt_2: 'a second prompt' })
    expect(await verdictOf(workers[mode], octet.job)).toEqual({ block_list: 'passed', moderation: 'passed' })
    const [{ method, path, headers, body } = {} as ModerationRequest] = seen
    expect([method, path, headers.authorization]).toEqual(['POST', '/v1/moderations', 'Bearer the key'])
    expect(body).toEqual({ model: 'a-moderator', input: 'allowed cat\n\na second prompt' })
  })

  test('a flagged prompt is refused as OpenAI does, and nothing is reserved or charged', async () => {
    const before = await moneyOf(workers[mode])
    const error = await refusalOf(workers[mode], 'flagged cat')
    expect(error).toBeInstanceOf(APIError)
    expect(error).toMatchObject({ status: 400, code: 'content_policy_violation', param: 'prompt' })
    expect(await moneyOf(workers[mode])).toEqual(before)
  })

  test('a blocked word is refused without a call to the service', async () => {
    expect(await refusalOf(workers[mode], 'allowed Unspeakable')).toMatchObject({ code: 'content_policy_violation' })
    expect(seen).toEqual([])
  })
})

describe.each(FAULTS)('a service that is %s', (fault) => {
  test('refuses the request if the policy fails closed, and nothing is reserved or charged', async () => {
    const before = await moneyOf(workers.refuse)
    const error = await refusalOf(workers.refuse, `${fault} cat`)
    expect([error.status, error.code, error.headers?.get('retry-after')]).toEqual([503, 'moderation_unavailable', '5'])
    expect(await moneyOf(workers.refuse)).toEqual(before)
    expect(seen).toHaveLength(1)
  })

  test('is skipped if the policy fails open, and the job contains the verdict', async () => {
    const { octet } = await generate(workers.allow, `${fault} cat`)
    expect(await verdictOf(workers.allow, octet.job)).toEqual({ block_list: 'passed', moderation: 'unavailable' })
  })
})

import { generateKeyPairSync } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { TIERS } from '../../../../gpu-fn/contract.ts'
import { createPacedEngine } from '../../../support/engine/paced-engine.ts'
import {
  createJobBody,
  oldEdgeKeys,
  putRaw,
  refusalOf,
  signToken,
  type TokenOptions,
} from '../../../support/gpu/client.ts'
import { startServer } from '../../../support/gpu/server.ts'

const engine = createPacedEngine()
let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer(engine)
})
afterAll(async () => {
  expect(engine.runs).toHaveLength(0)
  await server[Symbol.asyncDispose]()
})

const good = JSON.stringify(createJobBody())
const readSeconds = () => Math.floor(Date.now() / 1000)

async function detailOf(response: Response): Promise<string> {
  return ((await response.clone().json()) as { detail: string }).detail
}

describe('hostile bodies', () => {
  test.each([
    ['not JSON', '{"prompt": ', 'the body must be JSON in UTF-8'],
    ['not an object', '[]', /^body was \[\]: /],
    ['empty', '', 'the body must be JSON in UTF-8'],
    ['deep nesting', '['.repeat(100_000), 'the body must be JSON in UTF-8'],
  ])('%s', async (_, body, detail) => {
    const response = await putRaw(server.url, 'job-1', body)
    expect(await detailOf(response)).toMatch(detail)
    expect(await refusalOf(response)).toBe('400 invalid_request')
  })

  test('bytes that are not UTF-8', async () => {
    const bytes = new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x7d])
    const token = await signToken('job-1', bytes)
    const headers = { 'content-type': 'application/json', authorization: `Bearer ${token}` }
    const response = await fetch(`${server.url}/jobs/job-1`, { method: 'PUT', headers, body: bytes })
    expect(await refusalOf(response)).toBe('400 invalid_request')
  })

  test('a megabyte, with or without Content-Length', async () => {
    const body = JSON.stringify({ ...createJobBody(), prompt: 'x'.repeat(1_000_000) })
    expect(await refusalOf(await putRaw(server.url, 'job-1', body))).toBe('413 request_too_large')
    const token = await signToken('job-1', body)
    const headers = { 'content-type': 'application/json', authorization: `Bearer ${token}` }
    const chunked = { method: 'PUT', headers, body: new Blob([body]).stream(), duplex: 'half' } as const
    expect(await refusalOf(await fetch(`${server.url}/jobs/job-1`, chunked))).toBe('413 request_too_large')
  })

  test.each([
    ['width', { width: 100 }, /^width was 100: .*16/],
    ['height', { height: 8192 }, /^height was 8192: .*6144/],
    ['steps', { steps: 2.5 }, /^steps was 2\.5: /],
    ['seed', { seed: -1 }, /^seed was -1: /],
    ['guidance_scale', { guidance_scale: 'high' }, /^guidance_scale was "high": .*number/],
    ['tier', { tier: 'fp4' }, new RegExp(`^tier was "fp4": .*${TIERS.map((tier) => `"${tier}"`).join('\\|')}`)],
    ['model', { model: '../../etc' }, /^model was "..\/..\/etc": /],
    ['protocol', { protocol: 2 }, /^protocol was 2: .*1/],
    ['prompt', { prompt: undefined }, /^prompt is missing: /],
    ['prompt', { prompt: 'x'.repeat(10_001) }, /^prompt was "x{79}… \(10003 characters\): .*10000/],
  ])('%s out of bounds: the error has the given value and the allowed range', async (_, change, detail) => {
    const response = await putRaw(server.url, 'job-1', JSON.stringify({ ...createJobBody(), ...change }))
    expect(await detailOf(response)).toMatch(detail)
    expect(await refusalOf(response)).toBe('400 invalid_request')
  })

  test('a value nested too deeply for the error message', async () => {
    const nested = '['.repeat(50_000) + ']'.repeat(50_000)
    const response = await putRaw(server.url, 'job-1', good.replace('"a red heart on a blue sky"', nested))
    expect(await detailOf(response)).toMatch(/^prompt was a value that is nested too deeply: .*string/)
    expect(await refusalOf(response)).toBe('400 invalid_request')
  })

  test('a PNG that might be too large to deliver: the error has the limit and a suggestion', async () => {
    const body = JSON.stringify(createJobBody({ width: 6144, height: 6144 }))
    const response = await putRaw(server.url, 'job-1', body)
    expect(await detailOf(response)).toBe(
      'an image of 6144x6144 as png may have up to 108.3 MiB; the limit is 64 MiB: use output_format jpeg or webp, or a smaller size',
    )
    expect(await refusalOf(response)).toBe('400 invalid_request')
  })

  test('an unknown field is named, and the known ones are listed', async () => {
    const response = await putRaw(server.url, 'job-1', JSON.stringify({ ...createJobBody(), cfg_scale: 4 }))
    expect(await detailOf(response)).toMatch(/^unknown field "cfg_scale" \(allowed: .*guidance_scale.*\)$/)
    expect(await refusalOf(response)).toBe('400 invalid_request')
  })
})

test('a caller who disconnects during the body is not an internal error', async () => {
  const socket = connect(server.port, '127.0.0.1')
  socket.end('PUT /jobs/a HTTP/1.1\r\nhost: gpu\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"pro')
  socket.resume()
  await once(socket, 'close')
  expect((await fetch(`${server.url}/healthz`)).status).toBe(200)
  expect(server.logs).toEqual([])
})

describe('a request is rejected before its body is read', () => {
  /** Sends a request that declares a 4 MB body but omits it. Returns the status line of the response. */
  async function fetchStatusWithoutBody(authorization: string): Promise<string> {
    const socket = connect(server.port, '127.0.0.1')
    socket.write(
      `PUT /jobs/job-1 HTTP/1.1\r\nhost: gpu\r\ncontent-type: application/json\r\ncontent-length: 4000000\r\n${authorization}\r\n`,
    )
    const [reply] = await once(socket, 'data')
    socket.destroy()
    return String(reply).split('\r\n')[0]!
  }
  const createBearer = async (job: string, options?: TokenOptions) =>
    `authorization: Bearer ${await signToken(job, good, options)}\r\n`

  test('without a token, with an expired token, and with a token for another job', async () => {
    expect(await fetchStatusWithoutBody('')).toBe('HTTP/1.1 401 Unauthorized')
    expect(await fetchStatusWithoutBody(await createBearer('job-1', { expires: readSeconds() - 60 }))).toBe(
      'HTTP/1.1 401 Unauthorized',
    )
    expect(await fetchStatusWithoutBody(await createBearer('job-2'))).toBe('HTTP/1.1 403 Forbidden')
  })
})

describe('tokens', () => {
  const stranger = generateKeyPairSync('ed25519').privateKey
  test.each<[string, TokenOptions, string]>([
    ['of another key', { key: stranger }, '401 token_invalid'],
    ['that expired', { expires: readSeconds() - 60 }, '401 token_expired'],
    ['with an excessive lifetime', { expires: readSeconds() + 3600 }, '401 token_invalid'],
    ['of another issuer', { issuer: 'somebody' }, '401 token_invalid'],
    ['for another audience', { audience: 'octet-edge' }, '401 token_invalid'],
    ['for another attempt', { attempt: 2 }, '403 token_mismatch'],
    ['for attempt 0', { attempt: 0 }, '401 token_invalid'],
  ])('one %s', async (_, options, refusal) => {
    expect(await refusalOf(await putRaw(server.url, 'job-1', good, options))).toBe(refusal)
  })

  test('a token of the previous key is accepted during a rotation', async () => {
    const response = await putRaw(server.url, 'job-1', '{}', { key: oldEdgeKeys.privateKey })
    expect(await refusalOf(response)).toBe('400 invalid_request')
  })

  async function putWith(authorization: string | undefined, body = good): Promise<Response> {
    const headers = { 'content-type': 'application/json', ...(authorization ? { authorization } : {}) }
    return fetch(`${server.url}/jobs/job-1`, { method: 'PUT', headers, body })
  }

  test('a missing or malformed token', async () => {
    const missing = await putWith(undefined)
    expect(missing.headers.get('www-authenticate')).toBe('Bearer')
    expect(await refusalOf(missing)).toBe('401 token_missing')
    expect(await refusalOf(await putWith('Basic YTpi'))).toBe('401 token_missing')
    expect(await refusalOf(await putWith('Bearer a.b.c'))).toBe('401 token_invalid')
  })

  test('a token without a signature', async () => {
    const [, payload] = (await signToken('job-1', good)).split('.')
    const header = Buffer.from('{"alg":"none"}').toString('base64url')
    expect(await refusalOf(await putWith(`Bearer ${header}.${payload}.`))).toBe('401 token_invalid')
  })

  test('a token for another job, or for another body', async () => {
    expect(await refusalOf(await putWith(`Bearer ${await signToken('job-2', good)}`))).toBe('403 token_mismatch')
    const tampered = good.replace('"seed":7', '"seed":8')
    expect(await refusalOf(await putWith(`Bearer ${await signToken('job-1', good)}`, tampered))).toBe(
      '403 token_mismatch',
    )
  })

  test('a used token, even if its request was rejected', async () => {
    const authorization = `Bearer ${await signToken('job-1', '{}')}`
    expect(await refusalOf(await putWith(authorization, '{}'))).toBe('400 invalid_request')
    expect(await refusalOf(await putWith(authorization, '{}'))).toBe('401 token_replayed')
    const cancel = { method: 'DELETE', headers: { authorization: `Bearer ${await signToken('nobody', '')}` } }
    expect(await refusalOf(await fetch(`${server.url}/jobs/nobody`, cancel))).toBe('404 job_not_found')
    expect(await refusalOf(await fetch(`${server.url}/jobs/nobody`, cancel))).toBe('401 token_replayed')
  })

  test('a token is not used up by a request with another body', async () => {
    const authorization = `Bearer ${await signToken('job-1', '{}')}`
    expect(await refusalOf(await putWith(authorization, '{"a":1}'))).toBe('403 token_mismatch')
    expect(await refusalOf(await putWith(authorization, '{}'))).toBe('400 invalid_request')
  })

  test.each([
    ['without a UUID', 'job-1.1'],
    ['with something after the UUID', `job-1.1.${'a'.repeat(36)}.b`],
    ['with the id of another job', `job-2.1.${'a'.repeat(36)}`],
  ])('a token %s', async (_, id) => {
    const authorization = `Bearer ${await signToken('job-1', good, { id })}`
    expect(await refusalOf(await putWith(authorization))).toBe('401 token_invalid')
  })

  test('a cancellation requires a token too', async () => {
    const response = await fetch(`${server.url}/jobs/job-1`, { method: 'DELETE' })
    expect(await refusalOf(response)).toBe('401 token_missing')
  })
})

test('another media type', async () => {
  const headers = { 'content-type': 'text/plain', authorization: `Bearer ${await signToken('job-1', good)}` }
  const response = await fetch(`${server.url}/jobs/job-1`, { method: 'PUT', headers, body: good })
  expect(await refusalOf(response)).toBe('415 unsupported_media_type')
})

test.each([
  ['PUT', '/jobs/a%2Fb', '400 invalid_request'],
  ['PUT', `/jobs/${'x'.repeat(65)}`, '400 invalid_request'],
  ['DELETE', '/jobs/%00', '400 invalid_request'],
  ['PUT', '/jobs/%zz', '400 invalid_request'],
  ['PUT', '/jobs/a/b', '404 not_found'],
  ['POST', '/jobs/a', '404 not_found'],
  ['GET', '/', '404 not_found'],
])('%s %s', async (method, path, refusal) => {
  expect(await refusalOf(await fetch(`${server.url}${path}`, { method }))).toBe(refusal)
})

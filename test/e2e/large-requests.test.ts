// Oversized requests over a real connection to the real worker: each gets a short error response instead of a dropped connection.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startWorker } from '../../infra/local/servers/worker.ts'
import { createKey, revokeKey } from '../../infra/operator/keys.ts'
import { createSecrets } from '../../infra/operator/secrets.ts'

const MB = 1024 * 1024

let worker: Awaited<ReturnType<typeof startWorker>>
let persist: string
let active: string
let revoked: string
beforeAll(async () => {
  persist = await mkdtemp(path.join(tmpdir(), 'octet-large-'))
  const { secrets } = await createSecrets()
  worker = await startWorker({ gpuUrl: 'http://127.0.0.1:1', persist, secrets })
  const target = { url: worker.url, token: secrets.OCTET_ADMIN_TOKEN }
  const [good, bad] = [await createKey(target, 'me'), await createKey(target, 'me')]
  await revokeKey(target, 'me', bad.id)
  active = good.key
  revoked = bad.key
})
afterAll(async () => {
  await worker?.stop()
  await rm(persist, { recursive: true, force: true })
})

const unknownFields = JSON.stringify(
  Object.fromEntries(Array.from({ length: 700_000 }, (_, i) => [`x${i}`, 'yyyyyyyyyyyy'])),
)

async function post(address: string, key: string, streamed: boolean): Promise<{ status: number; bytes: number }> {
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
  const body = streamed ? new Blob([unknownFields]).stream() : unknownFields
  const init = { method: 'POST', headers, body, ...(streamed && { duplex: 'half' }) }
  const response = await fetch(new URL(address, worker.url), init as RequestInit)
  return { status: response.status, bytes: (await response.arrayBuffer()).byteLength }
}

describe.each(['/v1/tokens', '/v1/images/generations', '/v1/jobs', '/v1/quote'])(
  'POST %s with an 18 MB body',
  (address) => {
    test.each([
      ['of a revoked key, its size declared', false],
      ['of a revoked key, without a size', true],
    ])('returns 401 for a request %s', async (_, streamed) => {
      expect(unknownFields.length).toBeGreaterThan(15 * MB)
      const { status, bytes } = await post(address, revoked, streamed)
      expect(status).toBe(401)
      expect(bytes).toBeLessThan(2000)
    })

    test.each([
      ['of an active key, its size declared', false],
      ['of an active key, without a size', true],
    ])('returns 413 for a request %s', async (_, streamed) => {
      const { status, bytes } = await post(address, active, streamed)
      expect(status).toBe(413)
      expect(bytes).toBeLessThan(2000)
    })
  },
)

test('a Prefer header with 8,000 spaces is rejected with 431', async () => {
  const headers = { authorization: `Bearer ${active}`, prefer: `wait${' '.repeat(8000)}x` }
  expect((await fetch(new URL('/v1/jobs', worker.url), { headers })).status).toBe(431)
})

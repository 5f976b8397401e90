// Responses with base64 images, encoded as a stream for files of any size.
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { CHUNK_BYTES, streamJson } from '../../../edge/http/base64-response.ts'
import { filesOf, generate, generatedOf, newCaller, problemOf } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const MB = 1024 * 1024

/** Returns a byte pattern whose period differs from every chunk size. */
const bytesOf = (length: number, seed = 0) =>
  Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) * 7 + seed) & 255)

/** Returns a file stream of `length` bytes, with a count of the bytes read from it. */
function createCountedFile(length: number, piece = 64 * 1024) {
  const seen = { read: 0, canceled: false }
  const stream = new ReadableStream({
    type: 'bytes',
    pull(controller: ReadableByteStreamController) {
      const size = Math.min(piece, length - seen.read)
      if (size === 0) {
        controller.close()
        controller.byobRequest?.respond(0)
        return
      }
      seen.read += size
      controller.enqueue(new Uint8Array(size))
    },
    cancel() {
      seen.canceled = true
    },
  })
  return { stream, seen }
}

const createBody = (marks: number) => (mark: string) => ({
  data: Array.from({ length: marks }, (_, i) => ({ b64_json: mark, i })),
  end: '€',
})

describe('a base64 response', () => {
  const borders = [0, 1, 2, 3, 4, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 200_001]
  test.for(borders)('encodes a file of %d bytes', async (length, { expect }) => {
    const file = bytesOf(length)
    await env.RESULTS.put('base64-test', file)
    const open = async () => (await env.RESULTS.get('base64-test'))!.body
    const reply = await new Response(streamJson(createBody(2), open)).json()
    const b64_json = file.toBase64()
    expect(reply).toEqual({
      data: [
        { b64_json, i: 0 },
        { b64_json, i: 1 },
      ],
      end: '€',
    })
  })

  test('reads files only as fast as the caller reads the response, for files of any size', async ({ expect }) => {
    const files = [createCountedFile(48 * MB), createCountedFile(48 * MB)]
    const reader = streamJson(createBody(2), async (index) => files[index]!.stream).getReader()
    let told = 0
    for (let done = false; !done; ) {
      const chunk = await reader.read()
      done = chunk.done
      told += chunk.value?.byteLength ?? 0
      const taken = files.reduce((sum, { seen }) => sum + seen.read, 0)
      expect(taken - (told * 3) / 4).toBeLessThan(4 * CHUNK_BYTES)
    }
    expect(told).toBeGreaterThan((2 * 48 * MB * 4) / 3)
  })

  test('stops reading the file when the caller cancels', async ({ expect }) => {
    const { stream, seen } = createCountedFile(48 * MB)
    const reader = streamJson(createBody(1), async () => stream).getReader()
    await reader.read()
    await reader.read()
    await reader.cancel()
    expect(seen.canceled).toBe(true)
    expect(seen.read).toBeLessThan(MB)
  })

  test('fails when a file cannot be opened', async ({ expect }) => {
    const open = () => Promise.reject(new Error('gone'))
    await expect(new Response(streamJson(createBody(1), open)).text()).rejects.toThrow('gone')
  })
})

describe('POST /v1/images/generations with b64_json', () => {
  const request = { prompt: 'a cat', seed: 4, n: 2, response_format: 'b64_json' }

  test('returns large files intact to two concurrent callers', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    const first = await generate(caller, request, { 'idempotency-key': 'large' })
    await first.text()
    const keys = await filesOf(caller)
    const large = keys.map((_, i) => bytesOf(12 * MB + i, i))
    await Promise.all(keys.map((key, i) => env.RESULTS.put(key, large[i]!)))
    const again = () => generate(caller, request, { 'idempotency-key': 'large' })
    for (const response of await Promise.all([again(), again()])) {
      expect(response.headers.get('content-type')).toBe('application/json')
      const { data } = await generatedOf(response)
      for (const [i, { b64_json }] of data.entries()) {
        const bytes = Uint8Array.fromBase64(b64_json!)
        expect(bytes.length).toBe(large[i]!.length)
        expect(await computeDigest(bytes)).toBe(await computeDigest(large[i]!))
      }
    }
  })

  test('returns 404 for a job whose images were deleted', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(works)
    const made = await generatedOf(await generate(caller, request, { 'idempotency-key': 'deleted' }))
    await env.RESULTS.delete(`results/30d/${caller.account}/${made.octet.job}/0.png`)
    const response = await generate(caller, request, { 'idempotency-key': 'deleted' })
    expect([response.status, (await problemOf(response)).detail]).toEqual([404, 'This image was deleted.'])
  })
})

const computeDigest = async (bytes: Uint8Array<ArrayBuffer>) =>
  new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)).toHex()

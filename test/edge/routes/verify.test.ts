import { env } from 'cloudflare:workers'
import fc from 'fast-check'
import { CompactSign, decodeJwt, decodeProtectedHeader, importJWK } from 'jose'
import { expect, test } from 'vitest'
import { configOf } from '../../../edge/config.ts'
import { readMarks } from '../../../edge/results/marks.ts'
import signed from '../../golden/credentials/signed-images.json' with { type: 'json' }
import { fetchWorker, generate, generatedOf, newCaller } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'

const FORMATS = ['png', 'jpeg', 'webp'] as const
const SOURCE = 'http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia'
const fileOf = (format: (typeof FORMATS)[number]) => Uint8Array.fromBase64(signed[format])

let addresses = 0
/** From a new address each time: the route is limited by address. */
async function verify(body: BodyInit, headers: Record<string, string> = {}): Promise<Record<string, unknown>> {
  const address = `2001:db8::${(++addresses).toString(16)}`
  const reply = await fetchWorker('/v1/verify', {
    method: 'POST',
    body,
    headers: { 'cf-connecting-ip': address, ...headers },
  })
  return { status: reply.status, ...((await reply.json()) as Record<string, unknown>) }
}

const hexOf = async (file: Uint8Array<ArrayBuffer>) =>
  new Uint8Array(await crypto.subtle.digest('SHA-256', file)).toHex()

test.each(FORMATS)('reads the marks of a %s without a key', async (format) => {
  const file = fileOf(format)
  expect(await verify(file)).toEqual({
    status: 200,
    object: 'verification',
    ...{ sha256: await hexOf(file), bytes: file.length, content_type: `image/${format}` },
    states_generated: true,
    iptc: { digital_source_type: SOURCE, ai_system_used: 'Octet (nano, fp8)' },
    c2pa: { bytes: expect.toSatisfy((bytes: number) => bytes > 4000 && bytes < 6000) },
    receipt: null,
  })
})

test('reads fields that another program has written as attributes, and reports absent marks as null', async () => {
  const xmp = `<rdf:Description Iptc4xmpExt:DigitalSourceType="${SOURCE}" Iptc4xmpExt:AISystemUsed='A &amp; B'/>`
  expect(await verify(webp('XMP ', new TextEncoder().encode(xmp)))).toMatchObject({
    states_generated: true,
    iptc: { digital_source_type: SOURCE, ai_system_used: 'A & B' },
    c2pa: null,
  })
  const camera = xmp.replace('trainedAlgorithmicMedia', 'digitalCapture')
  expect((await verify(webp('XMP ', new TextEncoder().encode(camera)))).states_generated).toBeNull()
  expect(await verify(webp('EXIF', new Uint8Array(9)))).toMatchObject({ states_generated: null, iptc: null })
})

test('checks a receipt of this deployment', async () => {
  fakeGpu(works)
  const caller = await newCaller()
  const { octet } = await generatedOf(await generate(caller, { prompt: 'a cat' }))
  const list = await fetchWorker(`/v1/jobs/${octet.job}/receipts`, { headers: caller.headers })
  const [{ receipt }] = ((await list.json()) as { data: [{ receipt: string }] }).data
  const receiptOf = async (given: string) => (await verify(fileOf('png'), { 'octet-receipt': given })).receipt
  expect(await receiptOf(receipt)).toEqual({ valid: false, reason: 'the receipt is that of another file' })
  expect(await receiptOf(`${receipt.slice(0, -8)}AAAAAAAA`)).toMatchObject({
    valid: false,
    reason: expect.stringContaining('signature'),
  })
  expect(await receiptOf('no receipt')).toMatchObject({ valid: false })
  expect(await receiptOf(await signReceipt(receipt, await hexOf(fileOf('png'))))).toMatchObject({
    ...{ valid: true, job: octet.job, image: 0, model: 'tiny', tier: 'fp8' },
  })
})

test('refuses other files, large files and too many files', async () => {
  expect(await verify('{"prompt": "a cat"}')).toMatchObject({ status: 400, error: { code: 'invalid_request' } })
  expect(await verify('')).toMatchObject({ status: 400, error: { code: 'invalid_request' } })
  expect(await verify(new Uint8Array(16 * 1024 * 1024 + 1))).toMatchObject({
    status: 413,
    error: { code: 'body_too_large' },
  })
  const statuses: unknown[] = []
  for (let k = 0; k < 12; k++) statuses.push((await verify('x', { 'cf-connecting-ip': '192.0.2.1' })).status)
  expect(statuses.at(-1)).toBe(429)
})

test('the reading of marks terminates for any bytes', () => {
  const changes = fc.array(fc.tuple(fc.integer({ min: 13, max: 12_000 }), fc.nat(255)), { maxLength: 8 })
  const mutated = fc.tuple(fc.constantFrom(...FORMATS), changes, fc.nat(12_000))
  fc.assert(
    fc.property(mutated, ([format, bytes, length]) => {
      const file = fileOf(format).slice(0, Math.max(12, length))
      for (const [at, byte] of bytes) if (at < file.length) file[at] = byte
      expect(readMarks(file)?.c2pa_bytes ?? 0).toBeLessThanOrEqual(file.length)
    }),
    { numRuns: 300 },
  )
})

test('the reading of marks ends after thousands of parts, so that a file of millions of parts does not block the worker', () => {
  const [parts, bytes] = [100_000, 2]
  const part = webp('C2PA', new Uint8Array(bytes)).subarray(12)
  const file = webp('C2PA', new Uint8Array(parts * part.length))
  for (let k = 0; k < parts; k++) file.set(part, 12 + k * part.length)
  expect(readMarks(file)?.c2pa_bytes).toBe(20_000 * bytes)
})

/** A WebP file of one chunk. */
function webp(type: string, data: Uint8Array): Uint8Array<ArrayBuffer> {
  const file = new Uint8Array(20 + data.length)
  const view = new DataView(file.buffer)
  file.set(new TextEncoder().encode(`RIFF....WEBP${type}`))
  view.setUint32(4, file.length - 8, true)
  view.setUint32(16, data.length, true)
  file.set(data, 20)
  return file
}

/** A genuine receipt with the digest of another file, signed with the deployment's key. */
async function signReceipt(receipt: string, sha256: string): Promise<string> {
  const claims = decodeJwt<{ file: object }>(receipt)
  const [{ kid: _, ...key }] = configOf(env).receiptKeys
  return new CompactSign(new TextEncoder().encode(JSON.stringify({ ...claims, file: { ...claims.file, sha256 } })))
    .setProtectedHeader({ alg: 'EdDSA', ...decodeProtectedHeader(receipt) })
    .sign(await importJWK(key, 'EdDSA'))
}

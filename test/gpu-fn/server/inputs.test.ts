import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createPacedEngine } from '../../support/engine/paced-engine.ts'
import { createJobBody, inputOf, putFiles as putFilesTo, refusalOf, signToken } from '../../support/gpu/client.ts'
import { readWholeStream } from '../../support/gpu/job-stream.ts'
import { startServer } from '../../support/gpu/server.ts'

const engine = createPacedEngine(1_000)
let server: Awaited<ReturnType<typeof startServer>>
let png: Buffer
beforeAll(async () => {
  server = await startServer(engine)
  png = await sharp({ create: { width: 8, height: 8, channels: 3, background: 'red' } })
    .png()
    .toBuffer()
})
afterAll(() => server[Symbol.asyncDispose]())

const putFiles = (job: string, request: object, files: Uint8Array, type?: string) =>
  putFilesTo(server.url, job, request, files, type)

test('files follow the request, and the same request joins the job', async () => {
  const request = { ...createJobBody(), inputs: [inputOf('image', png), inputOf('mask', png)], strength: 0.5 }
  const runs = engine.runs.length
  for (const _ of [1, 2]) {
    const entries = await readWholeStream(await putFiles('job-1', request, Buffer.concat([png, png])))
    expect(entries.at(-1)!.event.type).toBe('succeeded')
  }
  expect(engine.runs.length - runs).toBe(1)
})

test('a file that cannot be decoded fails the job as an invalid request', async () => {
  const broken = png.subarray(0, 40)
  const request = { ...createJobBody(), inputs: [inputOf('image', broken)] }
  const entries = await readWholeStream(await putFiles('job-2', request, broken))
  expect(entries.at(-1)!.event).toMatchObject({
    type: 'failed',
    code: 'invalid_request',
    message: expect.stringContaining('image: the file is damaged'),
  })
})

describe('a body is refused', () => {
  const cases: [name: string, inputs: () => unknown[], files: () => Uint8Array, refusal: string][] = [
    ['with other bytes', () => [inputOf('image', png)], () => Buffer.alloc(png.length), '400 invalid_request'],
    ['with too few bytes', () => [inputOf('image', png)], () => png.subarray(1), '400 invalid_request'],
    ['with more bytes', () => [inputOf('image', png)], () => Buffer.concat([png, png]), '400 invalid_request'],
    ['with a mask only', () => [inputOf('mask', png)], () => png, '400 invalid_request'],
    ['with two images', () => [inputOf('image', png), inputOf('image', png)], () => png, '400 invalid_request'],
    ['with a huge file', () => [{ ...inputOf('image', png), bytes: 2 ** 40 }], () => png, '400 invalid_request'],
  ]
  test.each(cases)('%s', async (_, inputs, files, refusal) => {
    const runs = engine.runs.length
    const response = await putFiles('job-3', { ...createJobBody(), inputs: inputs() }, files())
    expect(await refusalOf(response)).toBe(refusal)
    expect(engine.runs).toHaveLength(runs)
  })

  test('with strength and no image', async () => {
    expect(await refusalOf(await putFiles('job-4', { ...createJobBody(), strength: 0.5 }, new Uint8Array()))).toBe(
      '400 invalid_request',
    )
  })

  test('with a token for another request, before its files are read', async () => {
    const line = JSON.stringify({ ...createJobBody(), inputs: [inputOf('image', png)] })
    const token = await signToken('job-5', line.replace('red', 'blue'))
    const headers = { 'content-type': 'application/x-ndjson', authorization: `Bearer ${token}` }
    const body = Buffer.concat([Buffer.from(`${line}\n`), png])
    expect(await refusalOf(await fetch(`${server.url}/jobs/job-5`, { method: 'PUT', headers, body }))).toBe(
      '403 token_mismatch',
    )
  })
})

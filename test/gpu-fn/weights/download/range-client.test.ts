import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import net, { type AddressInfo } from 'node:net'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import tls from 'node:tls'
import { afterEach, expect, test } from 'vitest'
import { createRangeClient, type RangeClient } from '../../../../gpu-fn/weights/download/range-client.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()
const data = randomBytes(3_000_000)
const closing: (() => void)[] = []
afterEach(() => {
  for (const close of closing.splice(0)) close()
})

type Answer = (socket: net.Socket, range: { start: number; end: number }) => void

const createHead = ({ start, end }: { start: number; end: number }) =>
  `HTTP/1.1 206 Partial Content\r\nContent-Range: bytes ${start}-${end}/${data.length}\r\nContent-Length: ${end - start + 1}\r\n\r\n`
const whole: Answer = (socket, range) => {
  socket.write(createHead(range))
  socket.write(data.subarray(range.start, range.end + 1))
}

/** A raw TCP server with `answer` as its reply to each request, and a client of it. */
async function serve(answer: Answer, secure?: tls.TlsOptions) {
  const onSocket = (socket: net.Socket) => {
    closing.push(() => socket.destroy())
    socket.on('error', () => {})
    socket.on('data', (request) => {
      const [, start, end] = /range: bytes=(\d+)-(\d+)/.exec(request.toString('latin1'))!
      answer(socket, { start: Number(start), end: Number(end) })
    })
  }
  const server = secure ? tls.createServer(secure, onSocket) : net.createServer(onSocket)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const url = new URL(`${secure ? 'https://localhost' : 'http://127.0.0.1'}:${port}/a`)
  const client = createRangeClient(url.origin, { stallMs: 500 })
  closing.push(() => server.close(), client.close)
  return { client, url }
}

/** Reads a range, with a pause after the first block. */
async function read(client: RangeClient, url: URL, start: number, length: number, pauseMs = 0) {
  const blocks: Buffer[] = []
  const { signal } = new AbortController()
  for await (const block of client.request({ url, headers: {}, start, length, signal })) {
    blocks.push(Buffer.from(block))
    if (blocks.length === 1 && pauseMs > 0) await sleep(pauseMs)
    expect(Buffer.compare(block, blocks.at(-1)!)).toBe(0) // its memory is not reused yet
  }
  return Buffer.concat(blocks)
}

test('reads ranges one after another, each in several blocks', async () => {
  const { client, url } = await serve(whole)
  expect((await read(client, url, 0, 2_000_000)).equals(data.subarray(0, 2_000_000))).toBe(true)
  expect((await read(client, url, 2_999_999, 1)).equals(data.subarray(2_999_999))).toBe(true)
  expect((await read(client, url, 500, 1_000_000)).equals(data.subarray(500, 1_000_500))).toBe(true)
})

test('waits for a caller slower than the idle timeout of the server', async () => {
  const { client, url } = await serve(whole)
  expect((await read(client, url, 0, 1_000_000, 700)).equals(data.subarray(0, 1_000_000))).toBe(true)
})

test('yields all received bytes before the error of a broken connection', async () => {
  const { client, url } = await serve((socket, range) => {
    socket.write(createHead(range))
    socket.end(data.subarray(range.start, range.start + 700_001))
  })
  const blocks: Buffer[] = []
  const reading = (async () => {
    const request = { url, headers: {}, start: 7, length: 2_000_000, signal: new AbortController().signal }
    for await (const block of client.request(request)) blocks.push(Buffer.from(block))
  })()
  await expect(reading).rejects.toMatchObject({ name: 'Interrupted' })
  expect(Buffer.concat(blocks).equals(data.subarray(7, 700_008))).toBe(true)
})

test.each<[string, Answer]>([
  [
    'another reply after the range',
    (socket, range) => {
      whole(socket, range)
      socket.write('HTTP/1.1 206 Partial Content\r\n\r\nmore')
    },
  ],
  [
    'more bytes in the same packet',
    (socket, { start, end }) =>
      socket.write(Buffer.concat([Buffer.from(createHead({ start, end })), data.subarray(start, end + 5000)])),
  ],
])('takes no byte more than requested, and opens another connection after %s', async (_, answer) => {
  let replies = 0
  const ports = new Set<number | undefined>()
  const { client, url } = await serve((socket, range) => {
    replies += 1
    ports.add(socket.remotePort)
    answer(socket, range)
  })
  for (const length of [100, 600_000]) {
    const bytes = await read(client, url, length, length)
    expect(bytes.equals(data.subarray(length, 2 * length))).toBe(true)
    await sleep(20)
  }
  expect([replies, ports.size]).toEqual([2, 2])
})

test.each<[string, Answer, string]>([
  ['a status line without an end', (socket) => socket.write(`HTTP/1.1 206 ${'a'.repeat(40_000)}`), 'Interrupted'],
  [
    'a head without an end',
    (socket) => socket.write(`HTTP/1.1 206 OK\r\n${'name: value\r\n'.repeat(4_000)}`),
    'RangeRefused',
  ],
  ['an informational reply', (socket) => socket.write('HTTP/1.1 103 Early Hints\r\n\r\n'), 'RangeRefused'],
  [
    'a chunked reply',
    (socket, { start, end }) =>
      socket.write(
        `HTTP/1.1 206 OK\r\nContent-Range: bytes ${start}-${end}/9\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n`,
      ),
    'RangeRefused',
  ],
  ['what is not HTTP', (socket) => socket.write('220 ready\r\n\r\n'), 'RangeRefused'],
  [
    'no length',
    (socket, { start, end }) => socket.write(`HTTP/1.1 206 OK\r\nContent-Range: bytes ${start}-${end}/9\r\n\r\n`),
    'RangeRefused',
  ],
  ['nothing', () => {}, 'Interrupted'],
  ['an end', (socket) => socket.end(), 'Interrupted'],
])('refuses %s', async (_, answer, name) => {
  const { client, url } = await serve(answer)
  await expect(read(client, url, 0, 100)).rejects.toMatchObject({ name })
})

test('can be used again after an incomplete read', async () => {
  const { client, url } = await serve(whole)
  const request = { url, headers: {}, start: 0, length: 2_000_000, signal: new AbortController().signal }
  for await (const _ of client.request(request)) break
  expect((await read(client, url, 5, 400_000)).equals(data.subarray(5, 400_005))).toBe(true)
})

const canCertify = spawnSync('openssl', ['version']).status === 0 && 'setDefaultCACertificates' in tls

test.skipIf(!canCertify)('reads over TLS, from a slow caller too', async () => {
  const [key, cert] = ['key.pem', 'cert.pem'].map((name) => path.join(scratch.directory, name))
  const flags = '-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost'.split(' ')
  const names = ['-addext', 'subjectAltName=DNS:localhost']
  expect(spawnSync('openssl', ['req', ...flags, ...names, '-keyout', key!, '-out', cert!]).status).toBe(0)
  const [keyText, certText] = await Promise.all([readFile(key!, 'utf8'), readFile(cert!, 'utf8')])
  const trusted = tls.getCACertificates()
  const stranger = await serve(whole, { key: keyText, cert: certText })
  await expect(read(stranger.client, stranger.url, 0, 10)).rejects.toThrow(/self-signed certificate/)
  tls.setDefaultCACertificates([...trusted, certText])
  closing.push(() => tls.setDefaultCACertificates(trusted))
  const { client, url } = await serve(whole, { key: keyText, cert: certText })
  expect((await read(client, url, 0, 3_000_000)).equals(data)).toBe(true)
  expect((await read(client, url, 1, 1_500_000, 700)).equals(data.subarray(1, 1_500_001))).toBe(true)
})

// An HTTP proxy with faulty responses, as planned by a test.
import http from 'node:http'
import { serveLocally } from '../../../infra/command/local-server.ts'

/** The fault of one response, if any, after `bytes` of its body. */
export type Trouble =
  | 'none'
  | { kind: 'status'; status: number }
  /** No response at all, on an open connection. */
  | { kind: 'silent' }
  /** S3's response for a discarded multipart upload. */
  | { kind: 'gone' }
  | { kind: 'cut' | 'stall' | 'flip' | 'short'; bytes: number }
  /** A response with the whole object, with another range, or without a range. */
  | { kind: 'whole' | 'shifted' | 'unmarked' }

export type TroubleProxy = {
  url: string
  requests: { path: string; range: string | undefined; trouble: Trouble }[]
  close: () => void
}

/** Forwards requests to the origin `target`. `plan` chooses the fault of each response; `count` is the number of earlier requests. */
export async function startTroubleProxy(
  target: string,
  plan: (request: { path: string; range: string | undefined; count: number }) => Trouble,
): Promise<TroubleProxy> {
  const requests: TroubleProxy['requests'] = []
  const { url, stop } = await serveLocally((incoming, outgoing) => {
    const path = incoming.url ?? '/'
    const { range } = incoming.headers
    const trouble = plan({ path, range, count: requests.length })
    requests.push({ path, range, trouble })
    const kind = trouble === 'none' ? 'none' : trouble.kind
    if (trouble !== 'none' && trouble.kind === 'status') return void outgoing.writeHead(trouble.status).end()
    if (kind === 'silent') return
    if (kind === 'gone') {
      outgoing.writeHead(404, { 'content-type': 'application/xml', connection: 'close' })
      return void outgoing.end('<?xml version="1.0"?><Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>')
    }
    const { host: _host, ...headers } = incoming.headers
    if (kind === 'whole') delete headers.range
    // The host is unchanged, because the signature covers it.
    const upstream = http.request(
      `${target}${path}`,
      { method: incoming.method, headers: { ...headers, host: incoming.headers.host } },
      (reply) => {
        const given = { ...reply.headers }
        if (kind === 'shifted') given['content-range'] = given['content-range']?.replace(/bytes (\d)/, 'bytes 9$1')
        if (kind === 'unmarked') delete given['content-range']
        outgoing.writeHead(reply.statusCode ?? 502, given)
        applyTrouble(reply, outgoing, trouble)
      },
    )
    upstream.on('error', () => outgoing.destroy())
    outgoing.on('close', () => upstream.destroy())
    incoming.pipe(upstream)
  })
  return { url, requests, close: () => void stop() }
}

function applyTrouble(reply: http.IncomingMessage, outgoing: http.ServerResponse, trouble: Trouble): void {
  if (trouble === 'none' || !('bytes' in trouble)) return void reply.pipe(outgoing)
  const { kind, bytes } = trouble
  let passed = 0
  reply.on('data', (chunk: Buffer) => {
    const rest = bytes - passed
    passed += chunk.length
    if (rest < 0 && kind !== 'flip') return
    if (passed <= bytes || rest < 0) return void outgoing.write(chunk)
    if (kind === 'flip') {
      const corrupted = Buffer.from(chunk)
      corrupted[rest]! ^= 1
      return void outgoing.write(corrupted)
    }
    outgoing.write(chunk.subarray(0, rest), () => {
      if (kind === 'cut') outgoing.destroy()
      if (kind === 'short') outgoing.end()
    })
  })
  reply.on('end', () => {
    if (kind === 'flip' || passed <= bytes) outgoing.end()
  })
}

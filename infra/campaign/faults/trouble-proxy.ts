// A server before another one that spoils replies as a test tells it to.
import http from 'node:http'
import type { AddressInfo } from 'node:net'

/** What happens to one reply: nothing, or one kind of trouble after `bytes` of its body. */
export type Trouble =
  | 'none'
  | { kind: 'status'; status: number }
  /** S3's answer about an upload in parts that it has forgotten. */
  | { kind: 'gone' }
  | { kind: 'cut' | 'stall' | 'flip' | 'short'; bytes: number }
  /** As if the request had asked for everything, or for something else. */
  | { kind: 'whole' | 'shifted' | 'unmarked' }

export type TroubleProxy = {
  url: string
  requests: { path: string; range: string | undefined; trouble: Trouble }[]
  close: () => void
}

/** Passes requests on to `target` (origin), and replies back as `plan` says, which is told the path and how many requests came before. */
export async function startTroubleProxy(
  target: string,
  plan: (request: { path: string; range: string | undefined; count: number }) => Trouble,
): Promise<TroubleProxy> {
  const requests: TroubleProxy['requests'] = []
  const server = http.createServer((incoming, outgoing) => {
    const path = incoming.url ?? '/'
    const { range } = incoming.headers
    const trouble = plan({ path, range, count: requests.length })
    requests.push({ path, range, trouble })
    const kind = trouble === 'none' ? 'none' : trouble.kind
    if (trouble !== 'none' && trouble.kind === 'status') return void outgoing.writeHead(trouble.status).end()
    if (kind === 'gone') {
      outgoing.writeHead(404, { 'content-type': 'application/xml', connection: 'close' })
      return void outgoing.end('<?xml version="1.0"?><Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>')
    }
    const { host: _host, ...headers } = incoming.headers
    if (kind === 'whole') delete headers.range
    // The signature covers the host that the caller knows: it is sent as it was.
    const upstream = http.request(
      `${target}${path}`,
      { method: incoming.method, headers: { ...headers, host: incoming.headers.host } },
      (reply) => {
        const given = { ...reply.headers }
        if (kind === 'shifted') given['content-range'] = given['content-range']?.replace(/bytes (\d)/, 'bytes 9$1')
        if (kind === 'unmarked') delete given['content-range']
        outgoing.writeHead(reply.statusCode ?? 502, given)
        spoil(reply, outgoing, trouble)
      },
    )
    upstream.on('error', () => outgoing.destroy())
    outgoing.on('close', () => upstream.destroy())
    incoming.pipe(upstream)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    close() {
      server.closeAllConnections()
      server.close()
    },
  }
}

function spoil(reply: http.IncomingMessage, outgoing: http.ServerResponse, trouble: Trouble): void {
  if (trouble === 'none' || !('bytes' in trouble)) return void reply.pipe(outgoing)
  const { kind, bytes } = trouble
  let passed = 0
  reply.on('data', (chunk: Buffer) => {
    const rest = bytes - passed
    passed += chunk.length
    if (rest < 0 && kind !== 'flip') return
    if (passed <= bytes || rest < 0) return void outgoing.write(chunk)
    if (kind === 'flip') {
      const spoilt = Buffer.from(chunk)
      spoilt[rest]! ^= 1
      return void outgoing.write(spoilt)
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

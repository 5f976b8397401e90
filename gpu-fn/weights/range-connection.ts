// HTTP/1.1 reduced to what a download of gigabytes needs: ranges, one after another on a connection, read from the kernel straight into the
// memory of the caller. Node's own client takes five times the CPU a byte, which is what bounds a download there.
import net from 'node:net'
import tls from 'node:tls'

/** A request that may be sent again: the connection broke, fell silent, or the server was busy. */
export class Interrupted extends Error {
  override name = 'Interrupted' as const
}

/** The server answered with something else than the range. */
export class RangeRefused extends Error {
  override name = 'RangeRefused' as const
  readonly status: number
  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

export type RangeRequest = {
  url: URL
  headers: Record<string, string>
  start: number
  into: Uint8Array
  signal: AbortSignal
  /** Told how many bytes of `into` are filled, each time some came. */
  onFilled: (bytes: number) => void
}

type Exchange = RangeRequest & { filled: number; resolve: () => void; reject: (error: Error) => void }

const HEAD_BYTES = 16 * 1024

export type RangeConnection = ReturnType<typeof createRangeConnection>

/** A connection for one request at a time, opened when there is one. A reply that is silent for `stallMs` is Interrupted. */
export function createRangeConnection({ stallMs }: { stallMs: number }) {
  const head = Buffer.alloc(HEAD_BYTES)
  let headBytes = 0
  let inBody = false
  let exchange: Exchange | undefined
  let socket: net.Socket | undefined

  const nextBuffer = () =>
    exchange && inBody ? exchange.into.subarray(exchange.filled) : head.subarray(headBytes, HEAD_BYTES)

  function settle(error?: Error): void {
    const ended = exchange
    exchange = undefined
    inBody = false
    headBytes = 0
    if (error) socket?.destroy()
    if (error) ended?.reject(error)
    else ended?.resolve()
  }

  function fill(bytes: number): void {
    exchange!.filled += bytes
    exchange!.onFilled(exchange!.filled)
    if (exchange!.filled === exchange!.into.length) settle()
  }

  /** Bytes lie where `nextBuffer` said. */
  function onBytes(count: number) {
    if (!exchange) return settle(new Interrupted('bytes came unasked'))
    if (inBody) return fill(count)
    headBytes += count
    const end = head.subarray(0, headBytes).indexOf('\r\n\r\n')
    if (end < 0 && headBytes === HEAD_BYTES) return settle(new RangeRefused(0, 'the head of the reply is too long'))
    if (end < 0) return
    const wrong = refusalOf(head.toString('latin1', 0, end), exchange)
    if (wrong) return settle(wrong)
    const early = head.subarray(end + 4, headBytes)
    if (early.length > exchange.into.length) return settle(new Interrupted('more came than was asked for'))
    inBody = true
    exchange.into.set(early)
    if (early.length > 0) fill(early.length)
  }

  function open({ protocol, hostname, port }: URL): net.Socket {
    const host = hostname.replace(/^\[|\]$/g, '')
    const onread = {
      buffer: nextBuffer,
      callback(count: number) {
        onBytes(count)
        return true
      },
    }
    // tls.connect takes `onread` as net.connect does, which its types do not say.
    const options = { host, port: Number(port || (protocol === 'https:' ? 443 : 80)), onread }
    const name = net.isIP(host) ? {} : { servername: host }
    const opened =
      protocol === 'https:' ? tls.connect({ ...options, ...name } as tls.ConnectionOptions) : net.connect(options)
    opened.setNoDelay(true)
    opened.setTimeout(stallMs)
    const lost = (reason: string) => {
      if (socket === opened) settle(new Interrupted(reason))
    }
    opened.on('timeout', () => lost(`silent for ${stallMs} ms`))
    opened.on('error', (error) => lost(error.message))
    opened.on('end', () => lost('the server ended the connection'))
    opened.on('close', () => lost('the connection broke'))
    return opened
  }

  return {
    /** Fills `into`. Throws Interrupted, RangeRefused, or the signal's reason. */
    async request(request: RangeRequest): Promise<void> {
      const { url, headers, start, into, signal } = request
      signal.throwIfAborted()
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      if (!socket || socket.destroyed) socket = open(url)
      exchange = { ...request, filled: 0, resolve, reject }
      const onAbort = () => settle(signal.reason)
      signal.addEventListener('abort', onAbort)
      const lines = Object.entries({ ...headers, host: url.host, range: rangeOf(start, into.length) })
      socket.write(
        `GET ${url.pathname}${url.search} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`,
      )
      await promise.finally(() => signal.removeEventListener('abort', onAbort))
    },
    close(): void {
      socket?.destroy()
    },
  }
}

export const rangeOf = (start: number, length: number) => `bytes=${start}-${start + length - 1}`

/** What is wrong with a reply's head; undefined when the range follows, and nothing else. */
function refusalOf(head: string, { start, into }: Exchange): Error | undefined {
  const [first = '', ...lines] = head.split('\r\n')
  const status = Number(/^HTTP\/1\.1 (\d{3})\b/.exec(first)?.[1] ?? 0)
  if (status === 429 || status >= 500) return new Interrupted(`status ${status}`)
  if (status === 200) return new RangeRefused(status, 'the object came whole: the server does not serve ranges')
  if (status !== 206) return new RangeRefused(status, status ? `status ${status}` : 'the reply is not HTTP/1.1')
  const fields = new Map(
    lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
  )
  const range = fields.get('content-range') ?? ''
  if (!range.startsWith(`bytes ${start}-${start + into.length - 1}/`))
    return new RangeRefused(status, `"${range}" came in place of ${rangeOf(start, into.length)}`)
  if (fields.get('content-length') !== String(into.length) || fields.has('transfer-encoding'))
    return new RangeRefused(status, 'the reply does not state the length of the range')
  return undefined
}

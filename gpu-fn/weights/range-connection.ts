// HTTP/1.1 reduced to what a download of gigabytes needs: ranges, one after another on a connection, read from the kernel into a few blocks of
// memory that are used again and again. Node's own client takes five times the CPU a byte, which is what bounds a download there.
import net from 'node:net'
import tls from 'node:tls'
import { Interrupted, RangeRefused, type RangeRequest, rangeOf, refusalOf } from './range-reply.ts'

/** `blocks` are those that came and were not taken yet. */
type Exchange = RangeRequest & {
  received: number
  blocks: Uint8Array<ArrayBuffer>[]
  error?: Error | undefined
  wake: () => void
}

const HEAD_BYTES = 16 * 1024
/** Small enough that the cache still has a block when it is written. */
const BLOCK_BYTES = 256 * 1024

export type RangeConnection = ReturnType<typeof createRangeConnection>

/** A connection for one request at a time, opened when there is one. A reply that is silent for `stallMs` is Interrupted. */
export function createRangeConnection({ stallMs }: { stallMs: number }) {
  const head = Buffer.alloc(HEAD_BYTES)
  let headBytes = 0
  let inBody = false
  const spare: ArrayBuffer[] = []
  let block = new Uint8Array(BLOCK_BYTES)
  let blockBytes = 0
  let exchange: Exchange | undefined
  let socket: net.Socket | undefined

  function nextBuffer(): Uint8Array {
    if (!exchange || !inBody) return head.subarray(headBytes)
    return block.subarray(blockBytes, blockBytes + exchange.length - exchange.received)
  }

  /** Hands on what is there of a block. */
  function cutBlock(to: Exchange): void {
    if (blockBytes === 0) return
    to.blocks.push(block.subarray(0, blockBytes))
    block = new Uint8Array(spare.pop() ?? new ArrayBuffer(BLOCK_BYTES))
    blockBytes = 0
  }

  function settle(error?: Error) {
    const ended = exchange
    exchange = undefined
    inBody = false
    headBytes = 0
    if (error) socket?.destroy()
    if (!ended) return
    ended.error = error
    cutBlock(ended)
    ended.wake()
  }

  function fill(bytes: number) {
    const { length } = exchange!
    exchange!.received += bytes
    blockBytes += bytes
    if (exchange!.received === length) return settle()
    if (blockBytes < BLOCK_BYTES) return
    cutBlock(exchange!)
    exchange!.wake()
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
    if (early.length > exchange.length) return settle(new Interrupted('more came than was asked for'))
    inBody = true
    block.set(early)
    if (early.length > 0) fill(early.length)
  }

  function open({ protocol, hostname, port }: URL): net.Socket {
    const host = hostname.replace(/^\[|\]$/g, '')
    const onread = {
      buffer: nextBuffer,
      callback(count: number) {
        onBytes(count)
        if (!exchange?.blocks.length) return true
        // While a block waits it is the caller who is slow, not the server.
        opened.setTimeout(0)
        return false
      },
    }
    // tls.connect takes `onread` as net.connect does, which its types do not say.
    const options = { host, port: Number(port || (protocol === 'https:' ? 443 : 80)), onread }
    const name = net.isIP(host) ? {} : { servername: host }
    const opened =
      protocol === 'https:' ? tls.connect({ ...options, ...name } as tls.ConnectionOptions) : net.connect(options)
    opened.setNoDelay(true)
    const lost = (reason: string) => {
      if (socket === opened) settle(new Interrupted(reason))
    }
    opened.on('timeout', () => lost(`silent for ${stallMs} ms`))
    opened.on('error', (error) => lost(error.message))
    opened.on('end', () => lost('the server ended the connection'))
    opened.on('close', () => lost('the connection broke'))
    return opened
  }

  function send({ url, headers, start, length }: RangeRequest): void {
    if (!socket || socket.destroyed) socket = open(url)
    const lines = Object.entries({ ...headers, host: url.host, range: rangeOf(start, length) })
    socket.write(
      `GET ${url.pathname}${url.search} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`,
    )
  }

  return {
    /**
     * Yields the range in blocks as it comes; the memory of one is used again when the next is asked for. Throws Interrupted after all that
     * came, RangeRefused, or the signal's reason.
     */
    async *request(request: RangeRequest): AsyncGenerator<Uint8Array, void> {
      const { signal } = request
      signal.throwIfAborted()
      const current: Exchange = { ...request, received: 0, blocks: [], wake() {} }
      exchange = current
      const onAbort = () => settle(signal.reason)
      signal.addEventListener('abort', onAbort)
      try {
        send(request)
        while (true) {
          const next = current.blocks.shift()
          signal.throwIfAborted()
          if (next) {
            yield next
            spare.push(next.buffer)
          } else if (exchange !== current) {
            if (current.error) throw current.error
            return
          } else {
            const { promise, resolve } = Promise.withResolvers<void>()
            current.wake = resolve
            socket!.setTimeout(stallMs)
            socket!.resume()
            await promise
          }
        }
      } finally {
        signal.removeEventListener('abort', onAbort)
        if (exchange === current) settle(new Interrupted('nobody reads on'))
      }
    },
    close(): void {
      socket?.destroy()
    },
  }
}

// Ranges of objects over HTTP. undici's `dispatch` in place of its `request`, whose stream drops buffered bytes if the connection breaks.
import type { Socket } from 'node:net'
import { type Dispatcher, errors, Pool } from 'undici'

/** A request that may be sent again: the connection broke or stalled, or the server was busy. */
export class Interrupted extends Error {
  override name = 'Interrupted' as const
}

/** The server replied with something other than the range. */
export class RangeRefused extends Error {
  override name = 'RangeRefused' as const
  readonly status: number
  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

type RangeRequest = {
  url: URL
  headers: Record<string, string>
  start: number
  length: number
  signal: AbortSignal
}

export const formatRange = (start: number, length: number) => `bytes=${start}-${start + length - 1}`

const HEAD_BYTES = 16 * 1024
/** Bytes of one read from a socket: enough for few reads, and small enough that a block is still in the CPU cache when it is written. */
const BLOCK_BYTES = 256 * 1024
/** Shorter reads are copied, so that a slow sender cannot occupy a block with each byte. */
const SHORT_BYTES = BLOCK_BYTES / 8

export type RangeClient = ReturnType<typeof createRangeClient>

/** A client of one server, with a connection for each concurrent request. A reply that is silent for `stallMs` is Interrupted. */
export function createRangeClient(origin: string, { stallMs }: { stallMs: number }) {
  const blocks = new BlockPool()
  const pool = new Pool(origin, {
    headersTimeout: stallMs,
    bodyTimeout: stallMs,
    connect: { timeout: stallMs, ...blocks.socketOptions },
    maxHeaderSize: HEAD_BYTES,
    // Parallel connections need no multiplexing, and HTTP/1.1 takes less CPU.
    allowH2: false,
  })
  return {
    /**
     * Yields the range in blocks as they arrive; the memory of a block is reused once the next is requested. Throws Interrupted after all
     * received blocks, RangeRefused, or the signal's reason.
     */
    async *request(request: RangeRequest): AsyncGenerator<Uint8Array, void> {
      const { url, headers, signal } = request
      signal.throwIfAborted()
      const reply = new RangeReply(request)
      const abort = () => reply.abort(signal.reason)
      signal.addEventListener('abort', abort)
      try {
        const range = formatRange(request.start, request.length)
        pool.dispatch({ method: 'GET', path: url.pathname + url.search, headers: { ...headers, range } }, reply)
        for (let block = await reply.next(); block; block = await reply.next()) {
          yield block
          blocks.release(block)
        }
      } finally {
        signal.removeEventListener('abort', abort)
        reply.abort(new Interrupted('the reader stopped'))
      }
    },
    close: () => pool.destroy(),
  }
}

/** Memory that sockets read into, reused because allocating it for each read costs more than the read itself. */
class BlockPool {
  readonly #free: ArrayBufferLike[] = []

  /** Options of net.connect and tls.connect. undici passes them on, although its types do not include them. */
  readonly socketOptions = {
    highWaterMark: BLOCK_BYTES,
    onread: {
      buffer: () => Buffer.from(this.#free.pop() ?? new ArrayBuffer(BLOCK_BYTES)),
      callback: pushTo(this.#free),
    },
  }

  /** Makes a block's memory available to the next read. Nothing else may refer to it. */
  release({ buffer }: Uint8Array): void {
    if (buffer.byteLength === BLOCK_BYTES) this.#free.push(buffer)
  }
}

/** The callback of a socket for each read. */
const pushTo = (free: ArrayBufferLike[]) =>
  function onRead(this: Socket, bytes: number, block: Uint8Array): boolean {
    if (bytes > SHORT_BYTES) return this.push(block.subarray(0, bytes))
    const copy = Buffer.copyBytesFrom(block, 0, bytes)
    free.push(block.buffer)
    return this.push(copy)
  }

/** Queues the blocks of one reply, and pauses its connection while blocks are queued. */
class RangeReply implements Dispatcher.DispatchHandler {
  readonly #range: Pick<RangeRequest, 'start' | 'length'>
  readonly #blocks: Buffer[] = []
  #controller: Dispatcher.DispatchController | undefined
  #end: { error?: unknown } | undefined
  #wake = () => {}

  constructor(range: Pick<RangeRequest, 'start' | 'length'>) {
    this.#range = range
  }

  /** The next block; undefined at the end of the range. Throws after the last block if the reply failed. */
  async next(): Promise<Buffer | undefined> {
    if (this.#blocks.length === 0 && !this.#end) {
      const { promise, resolve } = Promise.withResolvers<void>()
      this.#wake = resolve
      this.#controller?.resume()
      await promise
    }
    const block = this.#blocks.shift()
    if (!block && this.#end?.error) throw this.#end.error
    return block
  }

  /** Closes the connection and discards the queue, unless the reply has ended. */
  abort(reason: Error): void {
    if (this.#end) return
    this.#blocks.length = 0
    this.#settle(reason)
    this.#controller?.abort(reason)
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    if (this.#end) controller.abort(new Interrupted('aborted'))
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number, headers: Headers): void {
    const refusal = checkHead(status, headers, this.#range)
    if (refusal) controller.abort(refusal)
  }

  onResponseData(controller: Dispatcher.DispatchController, block: Buffer): void {
    // The parser reports an empty block whenever it resumes.
    if (this.#end || block.length === 0) return
    this.#blocks.push(block)
    controller.pause()
    this.#wake()
  }

  onResponseEnd(): void {
    this.#settle()
  }

  onResponseError(_: Dispatcher.DispatchController, error: Error): void {
    this.#settle(classify(error))
  }

  #settle(error?: unknown): void {
    this.#end ??= { error }
    this.#wake()
  }
}

type Headers = Record<string, string | string[] | undefined>

/** The error in a reply's status or headers; undefined if its body is exactly the range. */
function checkHead(
  status: number,
  headers: Headers,
  { start, length }: Pick<RangeRequest, 'start' | 'length'>,
): Error | undefined {
  if (status === 429 || status >= 500) return new Interrupted(`status ${status}`)
  if (status === 200) return new RangeRefused(status, 'the reply is the whole object: the server does not serve ranges')
  if (status !== 206) return new RangeRefused(status, `status ${status}`)
  const range = headers['content-range'] ?? ''
  if (!String(range).startsWith(`bytes ${start}-${start + length - 1}/`))
    return new RangeRefused(status, `the reply is "${range}" instead of ${formatRange(start, length)}`)
  if (headers['content-length'] !== String(length) || headers['transfer-encoding'] !== undefined)
    return new RangeRefused(status, 'the reply does not state the length of the range')
  return undefined
}

function classify(error: Error): Error {
  if (error instanceof Interrupted || error instanceof RangeRefused) return error
  if (error instanceof errors.HeadersOverflowError) return new RangeRefused(0, 'the head of the reply is too long')
  if (error instanceof errors.HTTPParserError) return new RangeRefused(0, error.message)
  return new Interrupted(error.message, { cause: error })
}

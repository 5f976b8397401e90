// Reads a request's body within the contract's limits.
import { createHash } from 'node:crypto'
import { type JobInput, LIMITS } from '../../contract.ts'
import type { InputFiles } from '../../pipeline/input/input-image.ts'
import { Refusal } from './refusal.ts'

/** Longer bodies are not read to the end. */
const DISCARD_BYTES = 16 * LIMITS.requestBytes
const NEWLINE = 10

/**
 * A body in parts: the request, and the files that follow it. Errors are Refusals. Many clients lose a reply that arrives before they have
 * sent the request, and the kept-alive connection with it, so `discard` reads the excess first; hono's body limit replies early.
 */
export class RequestBody {
  readonly #chunks: AsyncIterator<Uint8Array>
  /** Received bytes that are not read yet. */
  #rest: Uint8Array = new Uint8Array()

  constructor({ body }: Request) {
    this.#chunks = (body ?? new ReadableStream<Uint8Array>({ start: (c) => c.close() }))[Symbol.asyncIterator]()
  }

  /** All bytes. */
  readAll(): Promise<Uint8Array> {
    return this.#readRequest(() => -1)
  }

  /** The bytes before the first newline. */
  readLine(): Promise<Uint8Array> {
    return this.#readRequest((chunk) => chunk.indexOf(NEWLINE))
  }

  /** The files that a request announces; the body must end after them. */
  async readFiles(inputs: readonly JobInput[]): Promise<InputFiles> {
    const files: InputFiles = {}
    for (const { name, bytes, sha256 } of inputs) {
      const file = await this.#readExactly(name, bytes)
      if (createHash('sha256').update(file).digest('hex') !== sha256)
        throw new Refusal('invalid_request', `the bytes of ${name} do not have the given sha256`)
      files[name] = file
    }
    if ((await this.#next()) !== null) throw new Refusal('invalid_request', 'the body has bytes after its inputs')
    return files
  }

  /** Reads and drops what remains, up to a limit. */
  async discard(): Promise<void> {
    for (let bytes = 0; bytes <= DISCARD_BYTES; ) {
      const chunk = await this.#next().catch(() => null)
      if (chunk === null) return
      bytes += chunk.byteLength
    }
  }

  /** Bytes up to the end, at most `LIMITS.requestBytes`; `find` returns the end's index in a chunk, or -1. */
  async #readRequest(find: (chunk: Uint8Array) => number): Promise<Uint8Array> {
    const chunks: Uint8Array[] = []
    let bytes = 0
    for (let chunk = await this.#next(); chunk !== null; chunk = await this.#next()) {
      const end = find(chunk)
      const part = end < 0 ? chunk : chunk.subarray(0, end)
      bytes += part.byteLength
      if (bytes > LIMITS.requestBytes)
        throw new Refusal('request_too_large', `the body may have ${LIMITS.requestBytes} bytes at most`)
      chunks.push(part)
      if (end < 0) continue
      this.#rest = chunk.subarray(end + 1)
      break
    }
    return Buffer.concat(chunks)
  }

  async #readExactly(name: string, bytes: number): Promise<Uint8Array> {
    const file = new Uint8Array(bytes)
    for (let read = 0; read < bytes; ) {
      const chunk = await this.#next()
      if (chunk === null)
        throw new Refusal('invalid_request', `the body ended after ${read} of ${bytes} bytes of ${name}`)
      const part = chunk.subarray(0, bytes - read)
      file.set(part, read)
      read += part.byteLength
      this.#rest = chunk.subarray(part.byteLength)
    }
    return file
  }

  /** The next bytes; null at the end. */
  async #next(): Promise<Uint8Array | null> {
    const rest = this.#rest
    this.#rest = new Uint8Array()
    if (rest.byteLength > 0) return rest
    try {
      const { done, value } = await this.#chunks.next()
      return done ? null : value.byteLength > 0 ? value : await this.#next()
    } catch (cause) {
      throw new Refusal('invalid_request', 'the body was interrupted', { cause })
    }
  }
}

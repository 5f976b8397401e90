// Reads an S3-compatible bucket (R2, S3, a self-hosted server) by signed requests that resume where a connection broke.
import { setTimeout as sleep } from 'node:timers/promises'
import { AwsClient } from 'aws4fetch'
import { createRangeClient, formatRange, Interrupted, type RangeClient, RangeRefused } from './range-client.ts'

export type BucketAddress = {
  /** Endpoint and bucket, such as `https://<account>.r2.cloudflarestorage.com/octet-weights`. */
  url: string
  accessKeyId: string
  secretAccessKey: string
  /** `auto`, the default, is R2's. */
  region?: string
}

/** An object cannot be read; the message has its key and the reason. `missing`: it does not exist. */
export class BucketError extends Error {
  override name = 'BucketError' as const
  readonly missing: boolean
  constructor(message: string, { missing = false, ...options }: ErrorOptions & { missing?: boolean } = {}) {
    super(message, options)
    this.missing = missing
  }
}

type RetryOptions = {
  /** A request without data for this long is retried. */
  stallMs?: number
  /** Maximum number of consecutive requests without data. */
  tries?: number
  /** Pause before the first retry, doubled for each further one. */
  pauseMs?: number
}

export type Bucket = Pick<BucketReader, 'url' | 'read' | 'readRange'>

const NEVER = new AbortController().signal

/** Opens a bucket for reading. */
export const openBucket = (address: BucketAddress, options: RetryOptions = {}): Bucket =>
  new BucketReader(address, options)

class BucketReader {
  readonly url: string
  readonly #options: Required<RetryOptions>
  readonly #signer: AwsClient
  readonly #ranges: RangeClient

  constructor(
    { url, accessKeyId, secretAccessKey, region = 'auto' }: BucketAddress,
    { stallMs = 10_000, tries = 6, pauseMs = 250 }: RetryOptions,
  ) {
    this.url = url.replace(/\/$/, '')
    this.#options = { stallMs, tries, pauseMs }
    this.#signer = new AwsClient({ accessKeyId, secretAccessKey, region, service: 's3', retries: 0 })
    this.#ranges = createRangeClient(new URL(this.url).origin, { stallMs })
  }

  /** Reads a whole object of at most `limit` bytes. Throws BucketError. */
  async read(key: string, limit: number): Promise<Uint8Array> {
    for (const retry = this.#retrier(key, NEVER); ; ) {
      try {
        return await this.#readWhole(key, limit)
      } catch (cause) {
        await retry(cause, false)
      }
    }
  }

  /**
   * Yields `length` bytes of an object from `start` on, in blocks as they arrive; the memory of a block is reused once the next is
   * requested. Each concurrent call has its own connection. Throws BucketError, or the signal's reason.
   */
  async *readRange(key: string, start: number, length: number, signal: AbortSignal): AsyncGenerator<Uint8Array, void> {
    const retry = this.#retrier(key, signal)
    for (let done = 0; done < length; ) {
      const before = done
      const rest = { start: start + done, length: length - done }
      try {
        const headers = { range: formatRange(rest.start, rest.length) }
        const signed = await this.#signer.sign(`${this.url}/${key}`, { headers })
        const request = { url: new URL(signed.url), headers: Object.fromEntries(signed.headers), ...rest, signal }
        for await (const block of this.#ranges.request(request)) {
          done += block.length
          yield block
        }
      } catch (cause) {
        await retry(cause, done > before)
      }
    }
  }

  /** Returns a function for failed requests, which waits if a retry is worthwhile, and throws otherwise. */
  #retrier(key: string, signal: AbortSignal) {
    const { tries, pauseMs } = this.#options
    let idle = 0
    return async (cause: unknown, progressed: boolean): Promise<void> => {
      signal.throwIfAborted()
      if (!(cause instanceof Interrupted)) throw asBucketError(cause, key, this.url)
      idle = progressed ? 1 : idle + 1
      if (idle >= tries) throw new BucketError(`${key} cannot be read from ${this.url}: ${cause.message}`, { cause })
      await sleep(pauseMs * 2 ** (idle - 1) * (0.75 + Math.random() / 2), undefined, { signal })
    }
  }

  async #readWhole(key: string, limit: number): Promise<Uint8Array> {
    const { stallMs } = this.#options
    const timeout = AbortSignal.timeout(stallMs)
    const interrupt = (cause: unknown) => {
      throw new Interrupted(timeout.aborted ? `no reply within ${stallMs} ms` : String(cause), { cause })
    }
    const { url, headers } = await this.#signer.sign(`${this.url}/${key}`)
    // Not part of the signature, because proxies may change this header.
    const plain = { ...Object.fromEntries(headers), 'accept-encoding': 'identity' }
    const response = await fetch(url, { headers: plain, signal: timeout, redirect: 'manual' }).catch(interrupt)
    if (!response.ok) {
      await response.body?.cancel().catch(() => {})
      if (response.status === 429 || response.status >= 500) throw new Interrupted(`status ${response.status}`)
      throw new RangeRefused(response.status, `status ${response.status}`)
    }
    return await readWithin(response, limit).catch((cause) =>
      cause instanceof TooLong ? throwTooLong(key, limit) : interrupt(cause),
    )
  }
}

class TooLong extends Error {}

/** Reads a body of at most `limit` bytes after decompression. Throws TooLong, without reading the rest, if it is longer. */
async function readWithin({ body }: Response, limit: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  let bytes = 0
  // Exiting the loop cancels the body.
  for await (const chunk of body ?? []) {
    bytes += chunk.byteLength
    if (bytes > limit) throw new TooLong()
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

function throwTooLong(key: string, limit: number): never {
  throw new BucketError(`${key} exceeds the limit of ${limit} bytes`)
}

function asBucketError(cause: unknown, key: string, base: string): unknown {
  if (!(cause instanceof RangeRefused)) return cause
  const { status, message } = cause
  if (status === 404) return new BucketError(`${key} is not in ${base}`, { cause, missing: true })
  const advice = status === 401 || status === 403 ? ': check the bucket and its keys' : ''
  return new BucketError(`${key} cannot be read from ${base}: ${message}${advice}`, { cause })
}

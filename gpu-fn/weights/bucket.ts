// Reads an S3-compatible bucket (R2, S3, a self-hosted server) by signed requests that resume where a connection broke.
import { setTimeout as sleep } from 'node:timers/promises'
import { AwsClient } from 'aws4fetch'
import { createRangeClient, formatRange, Interrupted, RangeRefused } from './range-client.ts'

export type BucketAddress = {
  /** Endpoint and bucket, such as `https://<account>.r2.cloudflarestorage.com/octet-weights`. */
  url: string
  accessKeyId: string
  secretAccessKey: string
  /** `auto`, the default, is R2's. */
  region?: string
}

/** An object cannot be had; the message names it and says why. `missing`: there is none of that name. */
export class BucketError extends Error {
  override name = 'BucketError' as const
  readonly missing: boolean
  constructor(message: string, { missing = false, ...options }: ErrorOptions & { missing?: boolean } = {}) {
    super(message, options)
    this.missing = missing
  }
}

export type Patience = {
  /** A reply that is silent for longer is given up and sent again. */
  stallMs?: number
  /** How often in a row a request may bring nothing. */
  tries?: number
  /** The pause after the first of them; each later one is twice as long. */
  pauseMs?: number
}

export type Bucket = {
  readonly url: string
  /** A whole object of at most `limit` bytes. Throws BucketError. */
  read(key: string, limit: number): Promise<Uint8Array>
  /**
   * Yields `length` bytes of an object from `start` on, in blocks as they arrive. Each concurrent call has a connection of its own.
   * Throws BucketError, or the signal's reason.
   */
  readRange(key: string, start: number, length: number, signal: AbortSignal): AsyncGenerator<Uint8Array, void>
}

const NEVER = new AbortController().signal

/** A bucket for reading. */
export function openBucket(
  address: BucketAddress,
  { stallMs = 10_000, tries = 6, pauseMs = 250 }: Patience = {},
): Bucket {
  const { accessKeyId, secretAccessKey, region = 'auto' } = address
  const client = new AwsClient({ accessKeyId, secretAccessKey, region, service: 's3', retries: 0 })
  const base = address.url.replace(/\/$/, '')
  const ranges = createRangeClient(new URL(base).origin, { stallMs })

  /** What to call when a request failed: it returns after a pause when the request is worth sending again, and throws otherwise. */
  function patienceFor(key: string, signal: AbortSignal) {
    let idle = 0
    return async (cause: unknown, broughtSome: boolean): Promise<void> => {
      signal.throwIfAborted()
      if (!(cause instanceof Interrupted)) throw asBucketError(cause, key, base)
      idle = broughtSome ? 1 : idle + 1
      if (idle >= tries) throw new BucketError(`${key} cannot be read from ${base}: ${cause.message}`, { cause })
      await sleep(pauseMs * 2 ** (idle - 1) * (0.75 + Math.random() / 2), undefined, { signal })
    }
  }

  async function readWhole(key: string, limit: number): Promise<Uint8Array> {
    const timeout = AbortSignal.timeout(stallMs)
    const broken = (cause: unknown) => {
      throw new Interrupted(timeout.aborted ? `no reply within ${stallMs} ms` : String(cause), { cause })
    }
    // Not part of the signature, because proxies may change this header.
    const { url, headers } = await client.sign(`${base}/${key}`)
    const plain = { ...Object.fromEntries(headers), 'accept-encoding': 'identity' }
    const response = await fetch(url, { headers: plain, signal: timeout, redirect: 'manual' }).catch(broken)
    if (!response.ok) {
      await response.body?.cancel().catch(() => {})
      if (response.status === 429 || response.status >= 500) throw new Interrupted(`status ${response.status}`)
      throw new RangeRefused(response.status, `status ${response.status}`)
    }
    return await readWithin(response, limit).catch((cause) =>
      cause instanceof TooLong ? tooLong(key, limit) : broken(cause),
    )
  }

  return {
    url: base,
    async read(key, limit) {
      for (const failed = patienceFor(key, NEVER); ; ) {
        try {
          return await readWhole(key, limit)
        } catch (cause) {
          await failed(cause, false)
        }
      }
    },
    async *readRange(key, start, length, signal) {
      const failed = patienceFor(key, signal)
      for (let done = 0; done < length; ) {
        const before = done
        const rest = { start: start + done, length: length - done }
        try {
          const headers = { range: formatRange(rest.start, rest.length) }
          const signed = await client.sign(`${base}/${key}`, { headers })
          const request = { url: new URL(signed.url), headers: Object.fromEntries(signed.headers), ...rest, signal }
          for await (const block of ranges.request(request)) {
            done += block.length
            yield block
          }
        } catch (cause) {
          await failed(cause, done > before)
        }
      }
    },
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

function tooLong(key: string, limit: number): never {
  throw new BucketError(`${key} exceeds the limit of ${limit} bytes`)
}

function asBucketError(cause: unknown, key: string, base: string): unknown {
  if (!(cause instanceof RangeRefused)) return cause
  const { status, message } = cause
  if (status === 404) return new BucketError(`${key} is not in ${base}`, { cause, missing: true })
  const advice = status === 401 || status === 403 ? ': are the bucket and its keys the right ones?' : ''
  return new BucketError(`${key} cannot be read from ${base}: ${message}${advice}`, { cause })
}

// Reads an S3-compatible bucket (R2, S3, a server of one's own): signed requests that go on where a connection broke.
import { setTimeout as sleep } from 'node:timers/promises'
import { AwsClient } from 'aws4fetch'
import { createRangeConnection, Interrupted, RangeRefused, rangeOf } from './range-connection.ts'

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

export type RangeReader = {
  /** Fills `into` with the bytes of an object from `start` on, and tells how many are there as they come. One call at a time. Throws BucketError, or the signal's reason. */
  read(
    key: string,
    start: number,
    into: Uint8Array,
    signal: AbortSignal,
    onFilled?: (bytes: number) => void,
  ): Promise<void>
  close(): void
}

export type Bucket = {
  readonly url: string
  /** A whole object of at most `limit` bytes. Throws BucketError. */
  read(key: string, limit: number): Promise<Uint8Array>
  /** A connection of its own for ranges; nothing is asked before the first read. */
  connect(): RangeReader
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

  /** Calls `once` until it succeeds; `filled` tells how far it came. */
  async function persist<T>(
    key: string,
    signal: AbortSignal,
    filled: () => number,
    once: () => Promise<T>,
  ): Promise<T> {
    for (let idle = 0; ; ) {
      const before = filled()
      try {
        return await once()
      } catch (cause) {
        signal.throwIfAborted()
        if (!(cause instanceof Interrupted)) throw asBucketError(cause, key, base)
        idle = filled() > before ? 1 : idle + 1
        if (idle >= tries) throw new BucketError(`${key} cannot be read from ${base}: ${cause.message}`, { cause })
        await sleep(pauseMs * 2 ** (idle - 1) * (0.75 + Math.random() / 2), undefined, { signal })
      }
    }
  }

  async function readWhole(key: string, limit: number): Promise<Uint8Array> {
    const timeout = AbortSignal.timeout(stallMs)
    const broken = (cause: unknown) => {
      throw new Interrupted(timeout.aborted ? `no reply within ${stallMs} ms` : String(cause), { cause })
    }
    const response = await client.fetch(`${base}/${key}`, { signal: timeout }).catch(broken)
    if (response.status === 429 || response.status >= 500) throw new Interrupted(`status ${response.status}`)
    if (!response.ok) throw new RangeRefused(response.status, `status ${response.status}`)
    const length = Number(response.headers.get('content-length') ?? Number.POSITIVE_INFINITY)
    if (length > limit) throw new BucketError(`${key} has ${length} bytes; at most ${limit} are read`)
    return new Uint8Array(await response.arrayBuffer().catch(broken))
  }

  return {
    url: base,
    read: (key, limit) =>
      persist(
        key,
        NEVER,
        () => 0,
        () => readWhole(key, limit),
      ),
    connect() {
      const connection = createRangeConnection({ stallMs })
      return {
        close: connection.close,
        async read(key, start, into, signal, told) {
          let filled = 0
          if (into.length === 0) return
          await persist(
            key,
            signal,
            () => filled,
            async () => {
              const from = start + filled
              const rest = into.subarray(filled)
              const range = rangeOf(from, rest.length)
              const { url, headers } = await client.sign(`${base}/${key}`, { headers: { range } })
              const before = filled
              const onFilled = (bytes: number) => {
                filled = before + bytes
                told?.(filled)
              }
              await connection.request({
                url: new URL(url),
                headers: Object.fromEntries(headers),
                start: from,
                into: rest,
                signal,
                onFilled,
              })
            },
          )
        },
      }
    },
  }
}

function asBucketError(cause: unknown, key: string, base: string): unknown {
  if (!(cause instanceof RangeRefused)) return cause
  const { status, message } = cause
  if (status === 404) return new BucketError(`${key} is not in ${base}`, { cause, missing: true })
  const advice = status === 401 || status === 403 ? ': are the bucket and its keys the right ones?' : ''
  return new BucketError(`${key} cannot be read from ${base}: ${message}${advice}`, { cause })
}

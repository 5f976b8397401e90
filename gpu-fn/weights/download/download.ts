// Downloads objects of a bucket to files, by many concurrent ranges. A file has its final name only when it is complete and verified.

import { STALE_MS } from '../budget.ts'
import { openHasher } from '../hasher.ts'
import { type ArrivingFile, createArrivingFile, type PackageFile, type Range } from './arriving-file.ts'
import type { Bucket } from './bucket.ts'

export type DownloadOptions = {
  /** Maximum number of concurrent requests. */
  connections?: number
  /**
   * Maximum distance between concurrent ranges. Larger ranges reduce the overhead of requests, but the hasher must find their bytes in the
   * page cache.
   */
  spreadBytes?: number
  /** Interval in which the files are marked as in progress, even while the bucket sends nothing. */
  touchMs?: number
  onProgress?: (bytes: number) => void
  /** Called for each file once it is complete, verified and renamed. An error ends the download, which waits for all calls. */
  onFile?: (file: PackageFile) => Promise<void>
}

/** The initial number of requests: several, so that a pause of one leaves no idle time. */
const INITIAL_CONNECTIONS = 4
/** The number of requests is doubled as long as that increases the rate by a tenth: each costs CPU, but a distant bucket needs many. */
const GROW_EVERY_MS = 500
const MIN_GAIN = 1.1
/** Minimum length of a range, as a fraction of the spread. */
const MIN_RANGE = 1 / 16

/**
 * Downloads all files, and renames each to its final name once it is complete and verified. Throws CorruptDownload, BucketError, or a
 * file-system error; files completed before the error remain.
 */
export async function download(
  bucket: Bucket,
  files: readonly PackageFile[],
  options: DownloadOptions = {},
): Promise<void> {
  const hasher = openHasher()
  const arriving = files.map((each) => createArrivingFile(each, hasher))
  const { touchMs = STALE_MS / 3, ...limits } = options
  const transfer = new Transfer(bucket, arriving, files, limits)
  const touching = setInterval(() => {
    for (const file of arriving) file.touch()
  }, touchMs).unref()
  try {
    await transfer.run()
  } finally {
    clearInterval(touching)
    await hasher.close()
    await Promise.all(arriving.map((file) => file.discard()))
  }
}

const sizeOf = (files: readonly PackageFile[]) => files.reduce((sum, { bytes }) => sum + bytes, 0)

type TransferOptions = Omit<DownloadOptions, 'touchMs'>
type Callback = 'onProgress' | 'onFile'

/** The concurrent requests of one download. */
class Transfer {
  readonly #bucket: Bucket
  readonly #files: readonly ArrivingFile[]
  readonly #wanted: readonly PackageFile[]
  readonly #options: Required<Omit<TransferOptions, Callback>> & Pick<TransferOptions, Callback>
  readonly #failed = new AbortController()
  readonly #readers: Promise<void>[] = []
  /** Number of concurrent requests. */
  #connections = 0
  /** Index of the first file with ranges that have not been requested. */
  #next = 0
  #bytesLeft: number
  #bytesDone = 0

  /** `files` and `wanted` have the same order. */
  constructor(
    bucket: Bucket,
    files: readonly ArrivingFile[],
    wanted: readonly PackageFile[],
    options: TransferOptions,
  ) {
    this.#bucket = bucket
    this.#files = files
    this.#wanted = wanted
    this.#bytesLeft = sizeOf(wanted)
    this.#options = { connections: 16, spreadBytes: 256 << 20, ...options }
  }

  async run(): Promise<void> {
    const { signal } = this.#failed
    const calls: unknown[] = []
    const place = async (file: ArrivingFile, i: number) => {
      await file.placed()
      if (signal.aborted) return
      const call = this.#options.onFile?.(this.#wanted[i]!)
      calls.push(call)
      await call
    }
    const placed = Promise.all(this.#files.map(place))
    this.#connect(INITIAL_CONNECTIONS)
    const growth = growWhileFaster(
      () => this.#bytesDone,
      (count) => this.#connect(count),
    )
    try {
      await Promise.race([placed, rejectOnAbort(signal)])
    } catch (error) {
      this.#failed.abort(error)
      throw error
    } finally {
      clearInterval(growth)
      await Promise.allSettled(this.#readers)
      await Promise.allSettled(calls)
    }
  }

  /** Sets the number of concurrent requests. */
  #connect(count: number): void {
    this.#connections = Math.min(count, this.#options.connections)
    for (let index = this.#readers.length; index < this.#connections; index++) {
      const reader = this.#readRanges(index)
      // The requests are awaited only at the end, so their rejections must be handled here.
      reader.catch((error) => this.#failed.abort(error))
      this.#readers.push(reader)
    }
  }

  async #readRanges(index: number): Promise<void> {
    while (index < this.#connections) {
      const next = this.#nextRange()
      if (!next) return
      const { file, range } = next
      for await (const block of this.#bucket.readRange(file.key, range.start, range.bytes, this.#failed.signal)) {
        await file.write(range, block)
        this.#bytesDone += block.length
        this.#options.onProgress?.(block.length)
      }
      if (range.bytes === 0) await file.write(range, new Uint8Array())
    }
  }

  /** The connections share the spread, or half of the remaining bytes, so that all end at about the same time. */
  #nextRange(): { file: ArrivingFile; range: Range } | null {
    const { spreadBytes } = this.#options
    const share = Math.min(spreadBytes, this.#bytesLeft / 2) / this.#connections
    const max = Math.ceil(Math.max(share, spreadBytes * MIN_RANGE))
    for (; this.#next < this.#files.length; this.#next++) {
      const file = this.#files[this.#next]!
      const range = file.next(max)
      if (!range) continue
      this.#bytesLeft -= range.bytes
      return { file, range }
    }
    return null
  }
}

const rejectOnAbort = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))

/** Doubles the connections as long as that increases the rate, and reverts the last doubling. */
function growWhileFaster(bytesDone: () => number, connect: (count: number) => void): NodeJS.Timeout {
  let [count, before, best] = [INITIAL_CONNECTIONS, 0, 0]
  const timer = setInterval(() => {
    const rate = bytesDone() - before
    before = bytesDone()
    if (rate < best * MIN_GAIN) {
      connect(Math.max(INITIAL_CONNECTIONS, count / 2))
      return clearInterval(timer)
    }
    best = rate
    count *= 2
    connect(count)
  }, GROW_EVERY_MS)
  return timer
}

// Objects of a bucket ► files, many ranges at a time. What has a name on disk is whole and has its SHA-256.
import { randomBytes } from 'node:crypto'
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { Worker } from 'node:worker_threads'
import type { Bucket, RangeReader } from './bucket.ts'
import type { Part, Written } from './sink.ts'

export type Wanted = { key: string; file: string; bytes: number; sha256: string }

/** What came does not have the SHA-256 that it should. */
export class CorruptDownload extends Error {
  override name = 'CorruptDownload' as const
}

export type DownloadOptions = {
  /** The most requests at a time, and the bytes of each. For each, and for two more, a part is held in memory. */
  connections?: number
  partBytes?: number
  onProgress?: (bytes: number) => void
}

/** Requests at a time in the beginning. One more is added as long as that brought more: each costs CPU, and a distant bucket needs many. */
const CONNECTIONS_AT_FIRST = 3
const GROW_EVERY_MS = 500
const WORTH_IT = 1.1

const SINK = new URL('./sink.ts', import.meta.url)

type Piece = { wanted: Wanted; partial: string; start: number; bytes: number; last: boolean }

function pieces(files: readonly Wanted[], partBytes: number): Piece[] {
  return files.flatMap((wanted) => {
    const { file, bytes } = wanted
    const partial = path.join(path.dirname(file), `.${randomBytes(8).toString('hex')}.part`)
    const count = Math.max(1, Math.ceil(bytes / partBytes))
    return Array.from({ length: count }, (_, k) => {
      const start = k * partBytes
      return { wanted, partial, start, bytes: Math.min(partBytes, bytes - start), last: k === count - 1 }
    })
  })
}

/**
 * Downloads every file, each put in place in one rename as soon as it is whole. Throws CorruptDownload, BucketError, or what the disk says;
 * files that were whole by then stay, everything else is gone.
 */
export async function download(bucket: Bucket, files: readonly Wanted[], options: DownloadOptions = {}): Promise<void> {
  const { connections = 8, partBytes = 16 << 20, onProgress } = options
  const todo = pieces(files, partBytes)
  const most = Math.min(connections, todo.length)
  const sink = openSink(Math.min(most + 2, todo.length), partBytes)
  const failed = new AbortController()
  const readers: RangeReader[] = []
  const fetched: Promise<void>[] = []
  let next = 0
  let bytesDone = 0

  async function fetchPieces(reader: RangeReader): Promise<void> {
    while (next < todo.length) {
      const turn = next++
      const { wanted, start, bytes, ...rest } = todo[turn]!
      const slot = await sink.slot()
      failed.signal.throwIfAborted()
      const data = slot.buffer.subarray(0, bytes)
      await reader.read(wanted.key, start, data, failed.signal)
      bytesDone += bytes
      onProgress?.(bytes)
      sink.write(turn, { slot: slot.index, data, file: wanted.file, sha256: wanted.sha256, ...rest })
    }
  }

  function addConnection(): void {
    if (readers.length === most) return
    const reader = bucket.connect()
    readers.push(reader)
    const done = fetchPieces(reader)
    // Awaited when all of them are; until then a failure must not be one that nobody handles.
    done.catch((error) => failed.abort(error))
    fetched.push(done)
  }

  const growth = growWhileItPays(() => bytesDone, addConnection)
  try {
    for (let k = 0; k < Math.min(CONNECTIONS_AT_FIRST, most); k++) addConnection()
    await Promise.race([sink.failed, sink.written(todo.length), aborted(failed.signal)])
  } catch (error) {
    failed.abort(error)
    throw error
  } finally {
    clearInterval(growth)
    for (const reader of readers) reader.close()
    await Promise.allSettled(fetched)
    await sink.close()
    await Promise.all(todo.map(({ partial }) => rm(partial, { force: true })))
  }
}

const aborted = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))

/** Adds a connection each time the last one brought a tenth more bytes a second. */
function growWhileItPays(bytesDone: () => number, add: () => void): NodeJS.Timeout {
  let before = 0
  let best = 0
  const timer = setInterval(() => {
    const rate = bytesDone() - before
    before = bytesDone()
    if (rate < best * WORTH_IT) return clearInterval(timer)
    best = rate
    add()
  }, GROW_EVERY_MS)
  return timer
}

/** The thread that hashes and writes, and the memory that parts lie in on their way to it. */
function openSink(slots: number, partBytes: number) {
  const thread = new Worker(SINK)
  const buffers: Uint8Array<SharedArrayBuffer>[] = []
  const free: number[] = []
  const queue: ((index: number) => void)[] = []
  const early = new Map<number, Part>()
  let sent = 0
  let done = 0
  const end = Promise.withResolvers<void>()
  const failure = Promise.withResolvers<never>()
  failure.promise.catch(() => {})
  let awaited = Number.POSITIVE_INFINITY

  thread.on('error', failure.reject)
  thread.on('message', ({ slot, mismatch, error }: Written) => {
    if (error) return failure.reject(error)
    if (mismatch)
      return failure.reject(
        new CorruptDownload(`${path.basename(mismatch.file)} came with the SHA-256 ${mismatch.sha256}`),
      )
    done += 1
    const waiting = queue.shift()
    if (waiting) waiting(slot)
    else free.push(slot)
    if (done >= awaited) end.resolve()
  })

  return {
    failed: failure.promise,
    /** Room for one part. Given in the order of asking, so that the part that is due always has one. */
    async slot(): Promise<{ index: number; buffer: Uint8Array<SharedArrayBuffer> }> {
      if (free.length === 0 && buffers.length < slots)
        free.push(buffers.push(new Uint8Array(new SharedArrayBuffer(partBytes))) - 1)
      const index = free.pop() ?? (await new Promise<number>((resolve) => queue.push(resolve)))
      return { index, buffer: buffers[index]! }
    },
    /** Hands on a part when its turn has come. */
    write(turn: number, part: Part): void {
      early.set(turn, part)
      for (let due = early.get(sent); due; due = early.get(sent)) {
        early.delete(sent)
        sent += 1
        thread.postMessage(due)
      }
    },
    /** Resolves when `count` parts are written. */
    written(count: number): Promise<void> {
      awaited = count
      if (done >= count) end.resolve()
      return end.promise
    },
    close: () => thread.terminate(),
  }
}

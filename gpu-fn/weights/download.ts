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
  /** Requests at a time, and the bytes of each. For each, and for two more, a part is held in memory. */
  connections?: number
  partBytes?: number
  onProgress?: (bytes: number) => void
}

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
  const { connections = 6, partBytes = 8 << 20, onProgress } = options
  const todo = pieces(files, partBytes)
  const sink = openSink(Math.min(connections + 2, todo.length), partBytes)
  const failed = new AbortController()
  let next = 0
  const readers = Array.from({ length: Math.min(connections, todo.length) }, () => bucket.connect())
  const fetchPieces = async (reader: RangeReader) => {
    while (next < todo.length) {
      const turn = next++
      const { wanted, start, bytes, ...rest } = todo[turn]!
      const slot = await sink.slot()
      failed.signal.throwIfAborted()
      const data = slot.buffer.subarray(0, bytes)
      await reader.read(wanted.key, start, data, failed.signal)
      onProgress?.(bytes)
      sink.write(turn, { slot: slot.index, data, file: wanted.file, sha256: wanted.sha256, ...rest })
    }
  }
  try {
    const fetched = Promise.all(readers.map(fetchPieces))
    await Promise.race([sink.failed, fetched.then(() => sink.written(todo.length))])
  } catch (error) {
    failed.abort(error)
    throw error
  } finally {
    for (const reader of readers) reader.close()
    await sink.close()
    await Promise.all(todo.map(({ partial }) => rm(partial, { force: true })))
  }
}

/** The thread that hashes and writes, and the memory that parts lie in on their way to it. */
function openSink(slots: number, partBytes: number) {
  const thread = new Worker(SINK)
  const buffers = Array.from({ length: slots }, () => new Uint8Array(new SharedArrayBuffer(partBytes)))
  const free = [...buffers.keys()]
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

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

/** Some fill the pauses between the requests of the others. */
const CONNECTIONS_AT_FIRST = 4
/** Twice as many requests at a time as long as that brings a tenth more: each costs CPU, and a distant bucket needs many. */
const GROW_EVERY_MS = 500
const WORTH_IT = 1.1
/** What is due is handed on in blocks of this size, which are hashed and written while the cache still has them. */
const BLOCK_BYTES = 1 << 20

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
  const { connections = 16, partBytes = 8 << 20, onProgress } = options
  const todo = pieces(files, partBytes)
  const most = Math.min(connections, todo.length)
  const sink = openSink(Math.min(most + 2, todo.length), partBytes)
  const failed = new AbortController()
  const readers: RangeReader[] = []
  const fetched: Promise<void>[] = []
  let [next, wanted, bytesDone] = [0, 0, 0]

  async function fetchPieces(reader: RangeReader, index: number): Promise<void> {
    while (next < todo.length && index < wanted) {
      const turn = next++
      const piece = todo[turn]!
      const slot = await sink.slot()
      failed.signal.throwIfAborted()
      const data = slot.buffer.subarray(0, piece.bytes)
      const part = sink.begin(turn, { slot: slot.index, data, ...piece, ...piece.wanted })
      let filled = 0
      await reader.read(piece.wanted.key, piece.start, data, failed.signal, (bytes) => {
        bytesDone += bytes - filled
        filled = bytes
        part(bytes, false)
      })
      onProgress?.(piece.bytes)
      part(piece.bytes, true)
    }
  }

  /** Has `count` requests at a time from now on. */
  function connect(count: number): void {
    wanted = Math.min(count, most)
    for (let index = readers.length; index < wanted; index++) {
      const reader = bucket.connect()
      readers.push(reader)
      const done = fetchPieces(reader, index)
      // Awaited when all of them are; until then a failure must not be one that nobody handles.
      done.catch((error) => failed.abort(error))
      fetched.push(done)
    }
  }

  connect(CONNECTIONS_AT_FIRST)
  const growth = growWhileItPays(() => bytesDone, connect)
  try {
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

/** Doubles the connections each time the last doubling paid, and takes back the one that did not. */
function growWhileItPays(bytesDone: () => number, connect: (count: number) => void): NodeJS.Timeout {
  let [count, before, best] = [CONNECTIONS_AT_FIRST, 0, 0]
  const timer = setInterval(() => {
    const rate = bytesDone() - before
    before = bytesDone()
    if (rate < best * WORTH_IT) {
      connect(Math.max(CONNECTIONS_AT_FIRST, count / 2))
      return clearInterval(timer)
    }
    best = rate
    count *= 2
    connect(count)
  }, GROW_EVERY_MS)
  return timer
}

type Arriving = { part: Omit<Part, 'slot'> & { slot: number }; filled: number; sent: number; complete: boolean }

/** The thread that hashes and writes, and the memory that parts lie in on their way to it. */
function openSink(slots: number, partBytes: number) {
  const thread = new Worker(SINK)
  const buffers: Uint8Array<SharedArrayBuffer>[] = []
  const free: number[] = []
  const queue: ((index: number) => void)[] = []
  const parts = new Map<number, Arriving>()
  let due = 0
  let done = 0
  const end = Promise.withResolvers<void>()
  const failure = Promise.withResolvers<never>()
  failure.promise.catch(() => {})
  let awaited = Number.POSITIVE_INFINITY

  /** Hands on what is there of the part that is due, and then of those after it. */
  function pump(): void {
    for (let arriving = parts.get(due); arriving; arriving = parts.get(due)) {
      const { part, filled, sent, complete } = arriving
      if (!complete && filled - sent < BLOCK_BYTES) return
      const { slot, data, partial, file, last, sha256 } = part
      const block: Part = { slot: null, data: data.subarray(sent, filled), partial, file, sha256, last: false }
      thread.postMessage(complete ? { ...block, slot, last } : block)
      arriving.sent = filled
      if (!complete) return
      parts.delete(due)
      due += 1
    }
  }

  thread.on('error', failure.reject)
  thread.on('message', ({ slot, mismatch, error }: Written) => {
    if (error) return failure.reject(error)
    if (mismatch)
      return failure.reject(
        new CorruptDownload(`${path.basename(mismatch.file)} came with the SHA-256 ${mismatch.sha256}`),
      )
    if (slot === null) return
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
    /** Takes a part into the order; what it returns is told how much of it is there, and whether that is all. */
    begin(turn: number, part: Omit<Part, 'slot'> & { slot: number }): (filled: number, complete: boolean) => void {
      const arriving: Arriving = { part, filled: 0, sent: 0, complete: false }
      parts.set(turn, arriving)
      return (filled, complete) => {
        Object.assign(arriving, { filled, complete })
        if (turn === due) pump()
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

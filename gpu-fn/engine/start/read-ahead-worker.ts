// One stream of read-ahead.ts: reads every n-th block of all files, in order.
import fs from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'

/** Blocks of `blockBytes` are numbered across all files; this stream reads `first`, `first + each`, … */
export type Task = { files: { file: string; bytes: number }[]; blockBytes: number; first: number; each: number }

const CHUNK_BYTES = 4 * 2 ** 20
/** A chunk that is read faster (bytes per second) was in the page cache, because no disk is as fast. */
const CACHED_RATE = 4e9

const chunk = Buffer.allocUnsafe(CHUNK_BYTES)

/** Returns the number of bytes read; 0 if the first chunk was in the page cache. */
function readBlock(descriptor: number, start: number, end: number): number {
  let bytes = 0
  for (let at = start; at < end; at += CHUNK_BYTES) {
    const started = performance.now()
    const count = fs.readSync(descriptor, chunk, 0, Math.min(CHUNK_BYTES, end - at), at)
    if (at === start && count / ((performance.now() - started) / 1000) > CACHED_RATE) return 0
    bytes += count
  }
  return bytes
}

function readFile(file: string, ranges: readonly (readonly [start: number, end: number])[]): number {
  const descriptor = fs.openSync(file, 'r')
  try {
    return ranges.reduce((sum, [start, end]) => sum + readBlock(descriptor, start, end), 0)
  } finally {
    fs.closeSync(descriptor)
  }
}

function run({ files, blockBytes, first, each }: Task): number {
  let read = 0
  let counted = 0
  for (const { file, bytes } of files) {
    const blocks = Math.ceil(bytes / blockBytes)
    const own = Array.from({ length: blocks }, (_, i) => i).filter((i) => (counted + i) % each === first)
    counted += blocks
    try {
      read += readFile(
        file,
        own.map((i) => [i * blockBytes, Math.min(bytes, (i + 1) * blockBytes)]),
      )
    } catch {
      // Opening the file reports the error.
    }
  }
  return read
}

parentPort!.postMessage(run(workerData as Task))

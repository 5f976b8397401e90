// One stream of read-ahead.ts: reads every n-th stretch of all files, in order.
import fs from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'

/** Stretches of `stretch` bytes are numbered across all files; this stream reads `first`, `first + each`, … */
export type Task = { files: { file: string; bytes: number }[]; stretch: number; first: number; each: number }

const CHUNK = 4 * 2 ** 20
/** A chunk that is read faster (bytes per second) was in the page cache, because no disk is as fast. */
const CACHED_RATE = 4e9

const chunk = Buffer.allocUnsafe(CHUNK)

/** Returns the number of bytes read; 0 if the first chunk was in the page cache. */
function readStretch(descriptor: number, start: number, end: number): number {
  let bytes = 0
  for (let at = start; at < end; at += CHUNK) {
    const started = performance.now()
    const count = fs.readSync(descriptor, chunk, 0, Math.min(CHUNK, end - at), at)
    if (at === start && count / ((performance.now() - started) / 1000) > CACHED_RATE) return 0
    bytes += count
  }
  return bytes
}

function readFile(file: string, ranges: readonly (readonly [start: number, end: number])[]): number {
  const descriptor = fs.openSync(file, 'r')
  try {
    return ranges.reduce((sum, [start, end]) => sum + readStretch(descriptor, start, end), 0)
  } finally {
    fs.closeSync(descriptor)
  }
}

function run({ files, stretch, first, each }: Task): number {
  let read = 0
  let counted = 0
  for (const { file, bytes } of files) {
    const stretches = Math.ceil(bytes / stretch)
    const own = Array.from({ length: stretches }, (_, i) => i).filter((i) => (counted + i) % each === first)
    counted += stretches
    try {
      read += readFile(
        file,
        own.map((i) => [i * stretch, Math.min(bytes, (i + 1) * stretch)]),
      )
    } catch {
      // Opening the file reports the error.
    }
  }
  return read
}

parentPort!.postMessage(run(workerData as Task))

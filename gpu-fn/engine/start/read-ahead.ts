// Reads a package's weights into the page cache before and while its graphs open: onnxruntime reads mapped files page by page, at a fraction
// of a disk's speed, and uploads begin only once the GPU's libraries are loaded.
import { once } from 'node:events'
import path from 'node:path'
import { Worker } from 'node:worker_threads'
import type { Package } from '../../manifest.ts'
import { listWeightsInLoadOrder } from '../../weights/load-order.ts'
import type { Task } from './read-ahead-worker.ts'

/** Concurrent reads of a file: the queue depth of a disk. */
const MAX_STREAMS = 8
const BLOCK_BYTES = 64 * 2 ** 20
const PROGRAM = new URL('./read-ahead-worker.ts', import.meta.url)

export type ReadAhead = { /** Bytes read from disk. */ bytes: number }

/**
 * Reads the weight files in the order in which they load, in several streams, and skips blocks that are in the page cache. An
 * aborted signal ends it. A file that cannot be read is skipped; it never throws.
 */
export async function readAhead({ directory, manifest }: Package, signal: AbortSignal): Promise<ReadAhead> {
  const names = listWeightsInLoadOrder(manifest)
  const files = names.map((name) => ({ file: path.join(directory, name), bytes: manifest.files[name]!.bytes }))
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0)
  // A thread takes longer to start than to read a small package.
  const each = Math.min(MAX_STREAMS, Math.ceil(total / BLOCK_BYTES))
  const tasks = Array.from({ length: each }, (_, first) => ({ files, blockBytes: BLOCK_BYTES, first, each }))
  const read = await Promise.all(tasks.map((task) => readStream(task, signal)))
  return { bytes: read.reduce((sum, bytes) => sum + bytes, 0) }
}

/** Reads one stream on a separate thread, because Node's pool is busy opening sessions; returns the bytes read from disk. */
async function readStream(task: Task, signal: AbortSignal): Promise<number> {
  if (signal.aborted) return 0
  const worker = new Worker(PROGRAM, { workerData: task })
  const end = () => void worker.terminate()
  signal.addEventListener('abort', end)
  try {
    let bytes = 0
    worker.on('message', (count: number) => {
      bytes = count
    })
    await once(worker, 'exit')
    return bytes
  } catch {
    return 0
  } finally {
    signal.removeEventListener('abort', end)
  }
}

// Reads a package's weights into the page cache while its graphs are opened, because onnxruntime reads mapped files page by page, at a
// fraction of a disk's speed.
import { once } from 'node:events'
import path from 'node:path'
import { Worker } from 'node:worker_threads'
import type { Package } from '../manifest.ts'
import type { Task } from './read-ahead-worker.ts'

const STREAMS = 4
const PROGRAM = new URL('./read-ahead-worker.ts', import.meta.url)

export type ReadAhead = { /** Bytes read from disk. */ bytes: number }

/**
 * Reads the weight files in the order in which they are opened, in several streams, and skips blocks that are in the page cache. An
 * aborted signal ends it. A file that cannot be read is skipped; it never throws.
 */
export async function readAhead({ directory, manifest }: Package, signal: AbortSignal): Promise<ReadAhead> {
  const names = Object.values(manifest.networks).flatMap(({ weights }) => weights ?? [])
  const files = names.map((name) => ({ file: path.join(directory, name), bytes: manifest.files[name]!.bytes }))
  const read = await Promise.all(
    Array.from({ length: STREAMS }, (_, i) => readStream({ files, first: i, each: STREAMS }, signal)),
  )
  return { bytes: read.reduce((sum, bytes) => sum + bytes) }
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

// A package's weights into the page cache while its graphs are opened: onnxruntime maps them and takes them page by page, which a disk
// answers at a fraction of its speed.
import { once } from 'node:events'
import path from 'node:path'
import { Worker } from 'node:worker_threads'
import type { Package } from '../manifest.ts'
import { NETWORKS } from '../manifest.ts'
import type { Task } from './read-ahead-worker.ts'

const STREAMS = 4
const PROGRAM = new URL('./read-ahead-worker.ts', import.meta.url)

export type ReadAhead = { /** Bytes that had to be read. */ bytes: number }

/**
 * Reads the weight files in the order in which they are opened, in several streams, and passes over stretches that are in the page cache
 * already. An aborted signal ends it. It only hurries things up: a file that cannot be read is passed over, and it never throws.
 */
export async function readAhead({ directory, manifest }: Package, signal: AbortSignal): Promise<ReadAhead> {
  const names = NETWORKS.map((network) => `${network}.weights`).filter((name) => manifest.files[name])
  const files = names.map((name) => ({ file: path.join(directory, name), bytes: manifest.files[name]!.bytes }))
  const read = await Promise.all(
    Array.from({ length: STREAMS }, (_, i) => stream({ files, first: i, each: STREAMS }, signal)),
  )
  return { bytes: read.reduce((sum, bytes) => sum + bytes) }
}

/** A thread of its own: Node's pool is busy opening the sessions. */
async function stream(task: Task, signal: AbortSignal): Promise<number> {
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

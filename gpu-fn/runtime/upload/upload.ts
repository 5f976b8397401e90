// Copies files to a device by several threads. Each thread reads a chunk of a file while the device copies the thread's preceding chunk, so
// that the copy has the rate of the disk or of the page cache. Mapping a file for one copy takes longer.
import { availableParallelism } from 'node:os'
import type { Pointer } from '../ort-api.ts'
import { settleAll } from '../settle-all.ts'
import { startThread, type TaskThread } from '../task-thread.ts'

/** `gpu`: null copies to host memory. */
type Upload = { gpu: number | null; file: string; to: Pointer; bytes: number }
/** `next`: index of the next chunk, shared by all threads; negative after an error. */
export type UploadTask = Omit<Upload, 'gpu'> & { next: Int32Array<SharedArrayBuffer> }
/** `threads`: number of threads that share a file. */
export type UploadThread = { gpu: number | null; threads: number }

/** A disk needs this many concurrent reads for its full rate; two to four suffice for the page cache. */
const MOST_THREADS = 8

const pools = new Map<number | null, TaskThread<UploadTask>[]>()

/** Copies the first `bytes` of a file to `to`, after all earlier uploads to the device. Throws an Error once no thread copies. */
export async function uploadFile({ gpu, ...file }: Upload): Promise<void> {
  const task: UploadTask = { ...file, next: new Int32Array(new SharedArrayBuffer(4)) }
  await settleAll((pools.get(gpu) ?? startPool(gpu)).map((thread) => thread(task)))
}

function startPool(gpu: number | null): TaskThread<UploadTask>[] {
  const program = new URL('./upload-worker.ts', import.meta.url)
  const workerData: UploadThread = { gpu, threads: Math.min(MOST_THREADS, availableParallelism()) }
  const onDeath = () => {
    if (pools.get(gpu) === pool) pools.delete(gpu)
  }
  const pool = Array.from({ length: workerData.threads }, () => startThread<UploadTask>(program, workerData, onDeath))
  pools.set(gpu, pool)
  return pool
}

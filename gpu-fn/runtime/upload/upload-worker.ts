// The program of upload.ts's threads.
import { closeSync, openSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { readInto, requestRead } from '../posix.ts'
import type { Ended } from '../task-thread.ts'
import { openStaging, type Staging } from './staging.ts'
import type { UploadTask, UploadThread } from './upload.ts'

const CHUNK_BYTES = 8 << 20
/** The value of a shared chunk index after which no thread takes a chunk. */
const STOPPED = -(2 ** 30)

const { gpu, threads } = workerData as UploadThread
const toHost: Staging = {
  copy: ({ descriptor, start, bytes }, to) => readInto(to, descriptor, start, bytes),
  finish: () => {},
}
const staging = gpu === null ? toHost : openStaging(gpu, CHUNK_BYTES)

/** Copies chunks until none is left. On return, no copy is in progress. */
function upload({ file, to, bytes, next }: UploadTask): void {
  const descriptor = openSync(file, 'r')
  try {
    for (;;) {
      const chunk = Atomics.add(next, 0, 1)
      const start = chunk * CHUNK_BYTES
      if (chunk < 0 || start >= bytes) break
      // The chunk that this thread probably takes next.
      requestRead(descriptor, start + threads * CHUNK_BYTES, CHUNK_BYTES)
      staging.copy({ descriptor, start, bytes: Math.min(CHUNK_BYTES, bytes - start) }, to + BigInt(start))
    }
  } catch (error) {
    Atomics.store(next, 0, STOPPED)
    throw error
  } finally {
    closeSync(descriptor)
    staging.finish()
  }
}

parentPort!.on('message', (task: UploadTask) => {
  let message: string | null = null
  try {
    upload(task)
  } catch (error) {
    message = `${task.file}: ${(error as Error).message}`
  }
  parentPort!.postMessage({ message } satisfies Ended)
})

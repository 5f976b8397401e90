// SHA-256 of files while they are written, on a separate thread.
import { Worker } from 'node:worker_threads'
import type { HashedFile, HashUpdate } from './hasher-thread.ts'

export type Hasher = ReturnType<typeof openHasher>

export function openHasher() {
  const thread = new Worker(new URL('./hasher-thread.ts', import.meta.url))
  const waiting = new Map<string, (sha256: string) => void>()
  const failed = Promise.withResolvers<never>()
  failed.promise.catch(() => {})
  thread.on('error', failed.reject)
  thread.on('message', ({ file, sha256 }: HashedFile) => waiting.get(file)?.(sha256))
  return {
    update: (update: HashUpdate) => thread.postMessage(update),
    /** Waits for the last update of a file and resolves to its SHA-256. Throws file-system errors. */
    digestOf: (file: string) =>
      Promise.race([failed.promise, new Promise<string>((resolve) => waiting.set(file, resolve))]),
    close: () => thread.terminate(),
  }
}

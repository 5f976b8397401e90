// SHA-256 of files while they are written, on a thread of its own.
import { Worker } from 'node:worker_threads'
import type { Arrived, Hashed } from './hasher-thread.ts'

export type Hasher = ReturnType<typeof openHasher>

export function openHasher() {
  const thread = new Worker(new URL('./hasher-thread.ts', import.meta.url))
  const waiting = new Map<string, (sha256: string) => void>()
  const failed = Promise.withResolvers<never>()
  failed.promise.catch(() => {})
  thread.on('error', failed.reject)
  thread.on('message', ({ file, sha256 }: Hashed) => waiting.get(file)?.(sha256))
  return {
    tell: (arrived: Arrived) => thread.postMessage(arrived),
    /** The SHA-256 of a file once all of it was told of. Throws what the disk says. */
    digestOf: (file: string) =>
      Promise.race([failed.promise, new Promise<string>((resolve) => waiting.set(file, resolve))]),
    close: () => thread.terminate(),
  }
}

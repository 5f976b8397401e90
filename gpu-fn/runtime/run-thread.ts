// The thread that runs all native sessions, so that the event loop is free. It must be one thread: cuDNN stores its plans per thread, and
// onnxruntime's memory grows if runs come from different threads.
import { Worker } from 'node:worker_threads'
import type { Pointer } from './ort-api.ts'

export type Run = { session: Pointer; options: Pointer; binding: Pointer }
export type Ended = { message: string | null }

let thread: Worker | undefined
const waiting: { resolve(): void; reject(error: Error): void }[] = []

/** RunWithBinding, after all earlier runs. Throws onnxruntime's error. */
export function runOnThread(run: Run): Promise<void> {
  thread ??= start()
  // The process must not exit during a run, and an idle thread must not prevent it from exiting.
  thread.ref()
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  waiting.push({ resolve, reject })
  thread.postMessage(run)
  return promise
}

function start(): Worker {
  const worker = new Worker(new URL('./run-worker.ts', import.meta.url))
  worker.on('message', ({ message }: Ended) => {
    const run = waiting.shift()!
    if (waiting.length === 0) worker.unref()
    if (message === null) run.resolve()
    else run.reject(new Error(message))
  })
  worker.on('error', (error) => {
    if (thread === worker) thread = undefined
    for (const run of waiting.splice(0)) run.reject(error)
  })
  return worker
}

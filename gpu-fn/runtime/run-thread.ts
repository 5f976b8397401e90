// One thread on which the runs of all native sessions happen, so that the event loop is free meanwhile. It is always the same one: cuDNN
// keeps its plans by thread, and onnxruntime's memory grows when runs come from different ones.
import { Worker } from 'node:worker_threads'
import type { Pointer } from './ort-api.ts'

export type Run = { session: Pointer; options: Pointer; binding: Pointer }
export type Ended = { message: string | null }

let thread: Worker | undefined
const waiting: { resolve(): void; reject(error: Error): void }[] = []

/** RunWithBinding, after the runs that were asked for before. Throws what onnxruntime says. */
export function runOnThread(run: Run): Promise<void> {
  thread ??= start()
  // While a run is under way the process must not end; an idle thread must not keep it.
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

// The threads that run native sessions, so that the event loop is free. Each device needs exactly one: cuDNN stores its plans per thread,
// and onnxruntime's memory grows if runs of a session come from different threads.
import { Worker } from 'node:worker_threads'
import type { Pointer } from './ort-api.ts'

export type Run = { session: Pointer; options: Pointer; binding: Pointer }
export type Ended = { message: string | null }

type RunThread = { worker: Worker; waiting: { resolve(): void; reject(error: Error): void }[] }
/** By index of the device. */
const threads = new Map<number, RunThread>()

/** RunWithBinding, after all earlier runs of the device. Throws onnxruntime's error. */
export function runOnThread(run: Run, device: number): Promise<void> {
  const { worker, waiting } = threads.get(device) ?? start(device)
  // The process must not exit during a run, and an idle thread must not prevent it from exiting.
  worker.ref()
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  waiting.push({ resolve, reject })
  worker.postMessage(run)
  return promise
}

function start(device: number): RunThread {
  const worker = new Worker(new URL('./run-worker.ts', import.meta.url))
  const thread: RunThread = { worker, waiting: [] }
  threads.set(device, thread)
  worker.on('message', ({ message }: Ended) => {
    const run = thread.waiting.shift()!
    if (thread.waiting.length === 0) worker.unref()
    if (message === null) run.resolve()
    else run.reject(new Error(message))
  })
  worker.on('error', (error) => {
    if (threads.get(device) === thread) threads.delete(device)
    for (const run of thread.waiting.splice(0)) run.reject(error)
  })
  return thread
}

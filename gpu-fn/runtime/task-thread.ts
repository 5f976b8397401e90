// A thread that performs tasks one after another. It replies to each with the message of its error, or null.
import { Worker } from 'node:worker_threads'

/** The reply to a task. */
export type Ended = { message: string | null }
/** Performs a task after all earlier ones. Throws its error. */
export type TaskThread<Task> = (task: Task) => Promise<void>

/** Starts a thread. `onDeath`: it performs no further tasks; those that wait fail. */
export function startThread<Task>(program: URL, workerData: unknown, onDeath: () => void): TaskThread<Task> {
  const worker = new Worker(program, { workerData })
  const waiting: PromiseWithResolvers<void>[] = []
  worker.on('message', ({ message }: Ended) => {
    const task = waiting.shift()!
    if (waiting.length === 0) worker.unref()
    if (message === null) task.resolve()
    else task.reject(new Error(message))
  })
  worker.on('error', (error) => {
    onDeath()
    for (const task of waiting.splice(0)) task.reject(error)
  })
  return (task) => {
    // The process must not exit during a task, and an idle thread must not prevent it from exiting.
    worker.ref()
    const ended = Promise.withResolvers<void>()
    waiting.push(ended)
    worker.postMessage(task)
    return ended.promise
  }
}

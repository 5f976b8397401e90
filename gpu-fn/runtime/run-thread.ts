// The threads that run native sessions, so that the event loop is free. Each device needs exactly one: cuDNN stores its plans per thread,
// and onnxruntime's memory grows if runs of a session come from different threads.
import type { Pointer } from './ort-api.ts'
import { startThread, type TaskThread } from './task-thread.ts'

export type Run = { session: Pointer; options: Pointer; binding: Pointer }

/** By index of the device. */
const threads = new Map<number, TaskThread<Run>>()

/** RunWithBinding, after all earlier runs of the device. Throws onnxruntime's error. */
export function runOnThread(run: Run, device: number): Promise<void> {
  const perform = threads.get(device) ?? start(device)
  return perform(run)
}

function start(device: number): TaskThread<Run> {
  const program = new URL('./run-worker.ts', import.meta.url)
  const thread = startThread<Run>(program, undefined, () => {
    if (threads.get(device) === thread) threads.delete(device)
  })
  threads.set(device, thread)
  return thread
}

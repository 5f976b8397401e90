// The program of run-thread.ts's thread.
import { parentPort } from 'node:worker_threads'
import { loadOrtApi } from './ort-api.ts'
import type { Run } from './run-thread.ts'
import type { Ended } from './task-thread.ts'

const api = loadOrtApi()

parentPort!.on('message', ({ session, options, binding }: Run) => {
  let message: string | null = null
  try {
    api.call('RunWithBinding', session, options, binding)
  } catch (error) {
    message = (error as Error).message
  }
  parentPort!.postMessage({ message } satisfies Ended)
})

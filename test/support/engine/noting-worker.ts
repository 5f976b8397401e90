// The real engine thread, with a note for every loaded package.
import { parentPort } from 'node:worker_threads'
import type { Command, Message } from '../../../gpu-fn/engine/messages.ts'

parentPort!.on('message', ({ type }: Command) => {
  if (type === 'load') parentPort!.postMessage({ type: 'note', note: 'runs with 16-bit products' } satisfies Message)
})
await import('../../../gpu-fn/engine/worker.ts')

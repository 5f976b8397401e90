// The real engine thread, with a note for every loaded package.
import { parentPort } from 'node:worker_threads'
import type { Reply, Request } from '../../../gpu-fn/engine/messages.ts'

parentPort!.on('message', (request: Request) => {
  if (!('command' in request) || request.command.type !== 'load') return
  const message = { type: 'note', note: 'runs with 16-bit products' } as const
  parentPort!.postMessage({ id: request.id, message } satisfies Reply)
})
await import('../../../gpu-fn/engine/worker.ts')

// The real engine thread, except that the prompt `crash` ends it with an error that nobody catches.
import { parentPort } from 'node:worker_threads'
import type { Request } from '../../../gpu-fn/engine/messages.ts'

parentPort!.on('message', (request: Request) => {
  if (!('command' in request)) return
  const { command } = request
  if (command.type === 'run' && command.request.prompt === 'crash') throw new Error('the thread crashed')
})
await import('../../../gpu-fn/engine/worker.ts')

// Loaded before the engine's thread program, by an import or by `--import`: a run with the prompt `hang` then blocks the thread after its
// first step, as a library does that never returns, until the file named by HANG_UNTIL exists.
import { existsSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import type { Reply, Request } from '../../../gpu-fn/engine/messages.ts'

const CHECK_MS = 50

function install(port: NonNullable<typeof parentPort>): void {
  const cell = new Int32Array(new SharedArrayBuffer(4))
  const post = port.postMessage.bind(port)
  let isHanging = false
  port.on('message', (request: Request) => {
    if ('command' in request) isHanging = request.command.type === 'run' && request.command.request.prompt === 'hang'
  })
  port.postMessage = (reply: Reply, transfer?: never) => {
    post(reply, transfer)
    const { message } = reply
    if (!isHanging || message.type !== 'event' || message.event.type !== 'step') return
    while (!existsSync(process.env.HANG_UNTIL ?? '')) Atomics.wait(cell, 0, 0, CHECK_MS)
    isHanging = false
  }
}

// Only in the engine's thread, which has these settings.
if (parentPort && workerData && 'memoryBytes' in workerData) install(parentPort)

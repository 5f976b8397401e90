// The main thread's side of the engine's thread: starts it, talks to it, replaces it when it dies.
import { on, once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { Logger } from 'pino'
import { JobError, jobFault } from './job-error.ts'
import { describePlan } from './memory-plan.ts'
import type { Command, Message, Settings } from './messages.ts'

const PROGRAM = new URL('./worker.ts', import.meta.url)

export interface ThreadOptions {
  /** Open packages that take more memory than this are closed, least recently used first. */
  memoryBytes: number
  /** Limit on the device memory in use; if given, it decides which packages stay open. */
  deviceBytes?: number | undefined
  log: Logger
  /** The thread's program; tests may wrap the default one. */
  program?: URL
}

/** One thread for every onnxruntime session, whose calls block their thread. Commands are sent one at a time. */
export function createThread({ memoryBytes, deviceBytes, log, program = PROGRAM }: ThreadOptions) {
  let thread: Worker | undefined
  let stopping = false
  let idle = Promise.resolve()

  function start(): Worker {
    const started = new Worker(program, { workerData: { memoryBytes, deviceBytes } satisfies Settings })
    const forget = () => {
      if (thread === started) thread = undefined
    }
    // After `error` the thread is as good as gone: a command sent between it and `exit` would be lost.
    started.on('error', (error) => {
      forget()
      log.error({ err: error }, 'the engine thread failed')
    })
    started.on('exit', (code) => {
      forget()
      if (!stopping) log.error({ code }, 'the engine thread ended; the next job starts another')
    })
    return started
  }

  return {
    /** Resolves when the thread's program is loaded; throws what kept it from loading. */
    async start(): Promise<void> {
      thread = start()
      const ended = once(thread, 'exit').then(() => {
        throw new Error('the engine thread ended before it was ready')
      })
      const ready = Promise.race([once(thread, 'message'), ended])
      idle = ready.then(
        () => {},
        () => {},
      )
      await ready
    },
    /** Sends a command and yields all replies but the last; every reply calls `onProgress`. Throws JobError if the command fails or the thread dies. */
    async *send(command: Command, onProgress: () => void = () => {}): AsyncGenerator<Message> {
      const { promise, resolve } = Promise.withResolvers<void>()
      idle = promise
      thread ??= start()
      try {
        for await (const reply of exchange(thread, command, onProgress)) {
          if (reply.type !== 'plan') yield reply
          else log.info({ package: command.package.manifest.model, ...describePlan(reply.plan) }, 'memory plan')
        }
      } finally {
        resolve()
      }
    },
    async stop(): Promise<void> {
      // A thread that is ended inside onnxruntime takes the whole process with it.
      await idle
      stopping = true
      await thread?.terminate()
    },
  }
}

async function* exchange(thread: Worker, command: Command, onReply: () => void): AsyncGenerator<Message> {
  const replies = on(thread, 'message', { close: ['exit'] })
  thread.postMessage(command)
  try {
    for await (const [reply] of replies as AsyncIterable<[Message]>) {
      onReply()
      if (reply.type === 'done') return
      if (reply.type === 'refused') throw new JobError('invalid_request', reply.message)
      if (reply.type === 'failed') throw jobFault(reply.code, reply.error)
      yield reply
    }
  } catch (cause) {
    throw cause instanceof JobError ? cause : jobFault('internal', cause)
  }
  throw jobFault('internal', new Error('the engine thread ended during the job'))
}

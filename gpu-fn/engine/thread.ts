// The main thread's handle of the engine's thread: starts it, exchanges messages with it, and replaces it after a crash.
import { on, once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { Logger } from 'pino'
import { JobError, jobFault } from './job-error.ts'
import { describePlan, type MemoryPlan } from './memory-plan.ts'
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

/** The thread of all onnxruntime sessions, whose calls block their thread. Commands are sent one at a time. */
export class EngineThread {
  readonly #options: ThreadOptions
  #thread: Worker | undefined
  #stopping = false
  #idle = Promise.resolve()

  constructor(options: ThreadOptions) {
    this.#options = options
  }

  /** Resolves when the thread's program is loaded. Throws the error that prevented it. */
  async start(): Promise<void> {
    const thread = this.#open()
    this.#thread = thread
    const ended = once(thread, 'exit').then(() => {
      throw new Error('the engine thread ended before it was ready')
    })
    const ready = Promise.race([once(thread, 'message'), ended])
    this.#idle = ready.then(
      () => {},
      () => {},
    )
    await ready
  }

  /** Sends a command and yields all replies but the last; every reply calls `onProgress`. Throws JobError if the command fails or the thread dies. */
  async *send(command: Command, onProgress: () => void = () => {}): AsyncGenerator<Message> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#idle = promise
    this.#thread ??= this.#open()
    try {
      for await (const reply of exchange(this.#thread, command, onProgress)) {
        if (reply.type === 'plan') this.#logPlan(command, reply.plan)
        else if (reply.type === 'closed') this.#logClosed(reply)
        yield reply
      }
    } finally {
      resolve()
    }
  }

  /** Ends the thread after the current command. Ending it inside onnxruntime would crash the process. */
  async stop(): Promise<void> {
    await this.#idle
    this.#stopping = true
    await this.#thread?.terminate()
  }

  #open(): Worker {
    const { memoryBytes, deviceBytes, log, program = PROGRAM } = this.#options
    const thread = new Worker(program, { workerData: { memoryBytes, deviceBytes } satisfies Settings })
    const forget = () => {
      if (this.#thread === thread) this.#thread = undefined
    }
    // Already on `error`, because a command sent between `error` and `exit` would be lost.
    thread.on('error', (error) => {
      forget()
      log.error({ err: error }, 'the engine thread failed')
    })
    thread.on('exit', (code) => {
      forget()
      if (!this.#stopping) log.error({ code }, 'the engine thread ended; the next job starts another')
    })
    return thread
  }

  #logClosed({ models, budget }: Extract<Message, { type: 'closed' }>): void {
    if (models.length > 0) this.#options.log.warn({ models, budget }, 'models closed to make room for another')
  }

  #logPlan({ package: { manifest } }: Command, plan: MemoryPlan): void {
    this.#options.log.info({ package: manifest.model, ...describePlan(plan) }, 'memory plan')
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

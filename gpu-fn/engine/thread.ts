// The main thread's handle of the engine's thread: starts it, exchanges messages with it, and replaces it after a crash.
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { Logger } from 'pino'
import { Exchange } from './exchange.ts'
import type { Command, Message, Reply, Request, Settings } from './messages.ts'
import { describePlan, type MemoryPlan } from './package/memory-plan.ts'
import type { StepBatch } from './step-batches.ts'

const PROGRAM = new URL('./worker.ts', import.meta.url)

export interface ThreadOptions {
  /** Open packages that take more memory than this are closed, least recently used first. */
  memoryBytes: number
  /** Limit on the memory in use of each device; if given, it decides which packages stay open. */
  deviceBytes?: number | undefined
  /** Number of devices that have the denoiser, 1 by default. */
  devices?: number | undefined
  /** Limit on cached prompt embeddings. */
  promptCacheBytes?: number | undefined
  /** The number of jobs that may share a run of the step graph; 1 by default. */
  sharing?: number | undefined
  /** Map the files of weights for the first copy to a GPU, instead of reading them. */
  mapsWeights?: boolean | undefined
  /** Repeat runs of step graphs as CUDA graphs where possible. */
  capture?: boolean | undefined
  log: Logger
  /** The thread's program; tests may wrap the default one. */
  program?: URL
}

export type SendOptions = {
  /** Called for every reply. */
  onProgress?: () => void
  /** The batch of a run's next step; null for a run on its own. */
  batch?: () => StepBatch | null
}

/** The thread of all onnxruntime sessions, whose calls block their thread. Commands may overlap. */
export class EngineThread {
  readonly #options: ThreadOptions
  #thread: Worker | undefined
  #stopping = false
  #ready: Promise<unknown> = Promise.resolve()
  #nextId = 1
  /** Commands in progress by id. */
  readonly #exchanges = new Map<number, Exchange>()
  #onIdle: (() => void)[] = []

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
    this.#ready = ready.catch(() => {})
    await ready
  }

  /**
   * Sends a command and yields all replies but the last. A run takes its next step when its next reply is requested. Throws JobError if the
   * command fails or the thread ends unexpectedly.
   */
  async *send(command: Command, { onProgress, batch }: SendOptions = {}): AsyncGenerator<Message> {
    const id = this.#nextId++
    const exchange = new Exchange()
    this.#exchanges.set(id, exchange)
    this.#thread ??= this.#open()
    const thread = this.#thread
    thread.postMessage({ id, command } satisfies Request)
    let isPaused = false
    try {
      for (let reply = await exchange.next(); reply; reply = await exchange.next()) {
        onProgress?.()
        if (reply.type === 'plan') this.#logPlan(command, reply.plan)
        else if (reply.type === 'closed') this.#logClosed(reply)
        isPaused = reply.type === 'event'
        yield reply
        const together = batch?.()
        const advance: Request = { id, advance: true, ...(together && { batch: together }) }
        // After the end of its thread, a run fails. Runs of its batch may be on the next thread, which therefore receives the message as
        // well.
        if (isPaused) (this.#thread ?? thread).postMessage(advance)
        isPaused = false
      }
    } finally {
      // The reader of a paused run has left. The run is canceled by its flag and ends.
      if (isPaused) thread.postMessage({ id, advance: true } satisfies Request)
      this.#exchanges.delete(id)
      if (this.#exchanges.size === 0) for (const resolve of this.#onIdle.splice(0)) resolve()
    }
  }

  /** Ends the thread after the commands in progress. Ending it inside onnxruntime would crash the process. */
  async stop(): Promise<void> {
    await this.#ready
    if (this.#exchanges.size > 0) await new Promise<void>((resolve) => this.#onIdle.push(resolve))
    this.#stopping = true
    await this.#thread?.terminate()
  }

  #open(): Worker {
    const { log, program = PROGRAM, ...options } = this.#options
    const { memoryBytes, deviceBytes, devices, promptCacheBytes, sharing, mapsWeights, capture } = options
    const workerData: Settings = { memoryBytes, deviceBytes, devices, promptCacheBytes, sharing, mapsWeights, capture }
    const thread = new Worker(program, { workerData })
    const forget = (cause: Error) => {
      if (this.#thread !== thread) return
      this.#thread = undefined
      for (const exchange of this.#exchanges.values()) exchange.fail(cause)
    }
    thread.on('message', ({ id, message }: Reply) => this.#exchanges.get(id)?.push(message))
    // Replaced on `error` rather than on `exit`, because a command between the two would be lost.
    thread.on('error', (error) => {
      forget(error)
      log.error({ err: error }, 'the engine thread failed')
    })
    thread.on('exit', (code) => {
      forget(new Error('the engine thread ended during the job'))
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

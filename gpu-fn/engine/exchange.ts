// The replies to one command of the engine's thread, in order.
import { createJobFault, JobError } from './job-error.ts'
import type { Message } from './messages.ts'

/** Buffers the replies to a command until they are read. */
export class Exchange {
  readonly #replies: Message[] = []
  #wake: (() => void) | undefined
  #failure: Error | undefined

  push(message: Message): void {
    this.#replies.push(message)
    this.#wake?.()
  }

  /** The thread has ended: no further reply arrives. */
  fail(error: Error): void {
    this.#failure = error
    this.#wake?.()
  }

  /** The next reply; undefined after the last one. Throws JobError if the command failed or the thread ended. */
  async next(): Promise<Message | undefined> {
    while (this.#replies.length === 0) {
      if (this.#failure) throw createJobFault('internal', this.#failure)
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    const reply = this.#replies.shift()!
    if (reply.type === 'done') return undefined
    if (reply.type === 'refused') throw new JobError('invalid_request', reply.message)
    if (reply.type === 'failed') throw createJobFault(reply.code, reply.error)
    return reply
  }
}

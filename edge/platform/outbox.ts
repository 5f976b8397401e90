// An outbox: entries in a table of a Durable Object that are sent until they are confirmed. The table has the time at which each entry is due
// (again), so that an entry survives resets of the object. The alarm of the object calls `run`.
import { retryPauseMs } from './backoff.ts'
import { log } from './log.ts'

type Transport<Batch> = {
  /** For the log. */
  name: string
  /** Runs before each run, for example to delete expired entries. */
  prepare?(): void
  /** Takes the next due entries, given those being sent. Null if none can be sent now. */
  take(sending: readonly Batch[]): Batch | null
  /**
   * Sends entries and stores the time at which each is due again, if any. After a rejection the outbox pauses, and the entries remain due.
   */
  send(batch: Batch, stop: AbortSignal): Promise<void>
  /** The due time of the next entry in Unix milliseconds; null if the outbox is empty. */
  nextDue(): number | null
  /** Maximum number of concurrent batches. */
  concurrency: number
  /** The pause after a failed run; it doubles with each further failure. */
  pauseMs: { first: number; max: number }
}

export class Outbox<Batch> {
  readonly #transport: Transport<Batch>
  readonly #sending = new Map<Promise<void>, Batch>()
  #stop = new AbortController()
  #woken = Promise.withResolvers<void>()
  /** Consecutive failed runs, and the end of the pause after the last one (Unix milliseconds). */
  #failures = 0
  #pausedUntil = 0
  #failed = false

  constructor(transport: Transport<Batch>) {
    this.#transport = transport
  }

  /** Sends entries until none is due and none is being sent. Begins no batch after `until` (Unix milliseconds). Never rejects. */
  async run(until: number): Promise<void> {
    this.#failed = false
    try {
      this.#transport.prepare?.()
      for (;;) {
        this.#woken = Promise.withResolvers<void>()
        while (Date.now() < until && !this.#failed && this.#begin());
        if (this.#sending.size === 0) break
        await Promise.race([...this.#sending.keys(), this.#woken.promise])
      }
    } catch (cause) {
      this.#fail(cause)
    }
    if (this.#failed) this.#pausedUntil = Date.now() + retryPauseMs(++this.#failures, this.#transport.pauseMs)
    else this.#failures = this.#pausedUntil = 0
  }

  /** The time of the next run in Unix milliseconds: the next due time, but not within a pause. Null if the outbox is empty. */
  nextRun(): number | null {
    const due = this.#transport.nextDue()
    return due === null ? null : Math.max(due, this.#pausedUntil)
  }

  /** Makes the current run look for new entries immediately. */
  wake(): void {
    this.#woken.resolve()
  }

  /** Aborts the batches being sent and waits for them to end. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await Promise.allSettled(this.#sending.keys())
    this.#stop = new AbortController()
  }

  #begin(): boolean {
    if (this.#sending.size >= this.#transport.concurrency) return false
    const batch = this.#transport.take([...this.#sending.values()])
    if (batch === null) return false
    const sent = this.#transport
      .send(batch, this.#stop.signal)
      .catch((cause: unknown) => this.#fail(cause))
      .finally(() => this.#sending.delete(sent))
    this.#sending.set(sent, batch)
    return true
  }

  #fail(cause: unknown): void {
    this.#failed = true
    log('error', 'an outbox could not send its entries yet', { outbox: this.#transport.name, cause })
  }
}

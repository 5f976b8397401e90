// Runs the attempts of one account, with concurrency limits per account and per receiver, so that an unresponsive receiver does not delay others.

import { type Busy, failingReceivers } from '../receivers.ts'
import type { Taken } from './attempts.ts'

/** The runtime's limit of simultaneous connections. */
const MAX_OF_ACCOUNT = 6
const MAX_OF_HOST = 4
/** The limit for a receiver whose last attempt failed, including the trial of an open circuit breaker. */
const MAX_OF_FAILING = 1

type Attempts = {
  /** Takes the next attempt, or returns null if there is none. */
  take(busy: Busy): Taken | null
  /** Makes an attempt and records its outcome. */
  make(attempt: Taken, stop: AbortSignal): Promise<void>
}

const countOf = (names: readonly string[]) =>
  [...Map.groupBy(names, (name) => name)].map(([name, all]) => ({ name, count: all.length }))

export class Dispatcher {
  readonly #sql: SqlStorage
  readonly #attempts: Attempts
  readonly #running = new Map<Promise<void>, Taken>()
  #stop = new AbortController()
  #woken = Promise.withResolvers<void>()

  constructor(sql: SqlStorage, attempts: Attempts) {
    this.#sql = sql
    this.#attempts = attempts
  }

  /** Makes attempts until none is available and none is in progress. Starts no attempts after `until` (Unix milliseconds). */
  async run(until: number): Promise<void> {
    for (;;) {
      this.#woken = Promise.withResolvers<void>()
      while (Date.now() < until && this.#running.size < MAX_OF_ACCOUNT && this.#start());
      if (this.#running.size === 0) return
      await Promise.race([...this.#running.keys(), this.#woken.promise])
    }
  }

  /** Makes the current run check for new attempts immediately. */
  wake(): void {
    this.#woken.resolve()
  }

  /** Aborts the attempts in progress and waits for them to end. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await Promise.allSettled(this.#running.keys())
    this.#stop = new AbortController()
  }

  #start(): boolean {
    const taken = this.#attempts.take(this.#busy())
    if (!taken) return false
    const attempt = this.#attempts.make(taken, this.#stop.signal).finally(() => this.#running.delete(attempt))
    this.#running.set(attempt, taken)
    return true
  }

  #busy(): Busy {
    const running = [...this.#running.values()]
    const receivers = countOf(running.map(({ receiver }) => receiver))
    const failing = failingReceivers(
      this.#sql,
      receivers.map(({ name }) => name),
    )
    const full = receivers.filter(({ name, count }) => count >= (failing.includes(name) ? MAX_OF_FAILING : MAX_OF_HOST))
    const hosts = countOf(running.map(({ host }) => host)).filter(({ count }) => count >= MAX_OF_HOST)
    return { receivers: full.map(({ name }) => name), hosts: hosts.map(({ name }) => name) }
  }
}

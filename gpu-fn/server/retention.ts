// Keeps ended jobs for replay, within limits of time and memory.
import type { Job } from './job.ts'

export type RetentionLimits = {
  /** Seconds after its end. */
  retainSeconds: number
  /** Bytes of all ended jobs together; the oldest are dropped first. */
  retainBytes: number
}

export class Retention {
  readonly #limits: RetentionLimits
  readonly #onDrop: (job: Job) => void
  /** A pending timer references its job, so it is cleared when the job is dropped. */
  readonly #timers = new Map<Job, NodeJS.Timeout>()
  #bytes = 0

  constructor(limits: RetentionLimits, onDrop: (job: Job) => void) {
    this.#limits = limits
    this.#onDrop = onDrop
  }

  add(job: Job): void {
    const { retainSeconds, retainBytes } = this.#limits
    this.#timers.set(job, setTimeout(() => this.#drop(job), retainSeconds * 1000).unref())
    this.#bytes += job.bytes
    for (const oldest of this.#timers.keys()) if (this.#bytes > retainBytes) this.#drop(oldest)
  }

  #drop(job: Job): void {
    clearTimeout(this.#timers.get(job))
    this.#timers.delete(job)
    this.#bytes -= job.bytes
    this.#onDrop(job)
  }
}

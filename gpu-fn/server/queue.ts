// A bounded first-in, first-out queue that runs one item at a time.

export class Queue<Item> {
  readonly #run: (item: Item) => Promise<void>
  readonly #capacity: number
  readonly #waiting: Item[] = []
  readonly #onIdle: (() => void)[] = []
  #running: Item | undefined
  #lastSeconds = 1

  /** `run` must not reject. `capacity` counts waiting items only. */
  constructor(run: (item: Item) => Promise<void>, capacity: number) {
    this.#run = run
    this.#capacity = capacity
  }

  /** Runs or enqueues the item; false if the queue is full. */
  add(item: Item): boolean {
    if (this.#running !== undefined && this.#waiting.length >= this.#capacity) return false
    this.#waiting.push(item)
    if (this.#running === undefined) void this.#work()
    return true
  }

  /** Removes a waiting item; false if it is not waiting. */
  remove(item: Item): boolean {
    const index = this.#waiting.indexOf(item)
    if (index >= 0) this.#waiting.splice(index, 1)
    return index >= 0
  }

  /** Number of items ahead of this one, including the running one; 0 for one that runs or has run. */
  position(item: Item): number {
    return this.#waiting.indexOf(item) + 1
  }

  counts(): { running: number; queued: number } {
    return { running: this.#running === undefined ? 0 : 1, queued: this.#waiting.length }
  }

  /** Estimated seconds until a place is free: the duration of the last run. */
  secondsUntilFree(): number {
    return this.#lastSeconds
  }

  /** Resolves when no item runs or waits. */
  idle(): Promise<void> {
    return this.#running === undefined ? Promise.resolve() : new Promise((resolve) => this.#onIdle.push(resolve))
  }

  async #work(): Promise<void> {
    for (this.#running = this.#waiting.shift(); this.#running !== undefined; this.#running = this.#waiting.shift()) {
      const start = performance.now()
      await this.#run(this.#running)
      this.#lastSeconds = (performance.now() - start) / 1000
    }
    for (const resolve of this.#onIdle.splice(0)) resolve()
  }
}

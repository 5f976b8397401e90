// A clock that stops during outages, for the time limits of callers. A killed process takes seconds to restart here, because the worker is
// compiled and its storage simulators are opened; in production it takes milliseconds.
/** Elapsed milliseconds, excluding outages. */
export class UpTime {
  #outages = 0
  #since: number | null = null

  now(): number {
    return (this.#since ?? performance.now()) - this.#outages
  }

  /** Runs an action and excludes its duration. */
  async omit<T>(action: () => Promise<T>): Promise<T> {
    this.#since = performance.now()
    try {
      return await action()
    } finally {
      this.#outages += performance.now() - this.#since
      this.#since = null
    }
  }
}

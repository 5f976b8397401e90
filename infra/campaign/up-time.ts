// The clock of callers. A killed process takes seconds to start here, because the worker is compiled and the simulators of its storage are
// opened; in production it takes milliseconds. Callers' time limits therefore omit these outages.
/** Milliseconds without those of outages. */
export class UpTime {
  #outages = 0
  #since: number | null = null

  now(): number {
    return (this.#since ?? performance.now()) - this.#outages
  }

  /** Performs an action and omits its duration. */
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

// First in, first out, one at a time, with a bound on how many may wait.

export interface Scheduler<Item> {
  /** Starts the item or puts it in line; false when the line is full. */
  add(item: Item): boolean
  /** Takes a waiting item out of the line; false when it is not waiting. */
  remove(item: Item): boolean
  /** How many items come before this one; 0 for one that runs or has run. */
  position(item: Item): number
  counts(): { running: number; queued: number }
  /** A guess at the seconds until a place is free: as long as the last item ran. */
  secondsUntilFree(): number
  /** Resolves when nothing runs and nothing waits. */
  idle(): Promise<void>
}

/** `run` must not reject: whatever happens to an item is its own to record. `capacity` counts waiting items only. */
export function createScheduler<Item>(run: (item: Item) => Promise<void>, capacity: number): Scheduler<Item> {
  const queue: Item[] = []
  const onIdle: (() => void)[] = []
  let running: Item | undefined
  let lastSeconds = 1

  async function work(): Promise<void> {
    for (running = queue.shift(); running !== undefined; running = queue.shift()) {
      const start = performance.now()
      await run(running)
      lastSeconds = (performance.now() - start) / 1000
    }
    for (const resolve of onIdle.splice(0)) resolve()
  }

  return {
    add(item) {
      if (running !== undefined && queue.length >= capacity) return false
      queue.push(item)
      if (running === undefined) void work()
      return true
    },
    remove(item) {
      const index = queue.indexOf(item)
      if (index >= 0) queue.splice(index, 1)
      return index >= 0
    },
    position: (item) => queue.indexOf(item) + 1,
    counts: () => ({ running: running === undefined ? 0 : 1, queued: queue.length }),
    secondsUntilFree: () => lastSeconds,
    idle: () => (running === undefined ? Promise.resolve() : new Promise((resolve) => onIdle.push(resolve))),
  }
}

// A size-bounded map with expiring entries, for keys that come from untrusted requests.

export type ExpiringMap<Value> = {
  get(key: string): Value | undefined
  /** Stores an entry and restarts its lifetime. */
  set(key: string, value: Value): void
}

/** Keeps up to `max` entries for `seconds` each; the oldest are evicted first. */
export function createExpiringMap<Value>({ seconds, max }: { seconds: number; max: number }): ExpiringMap<Value> {
  // A Map iterates in insertion order, which is the order of expiry.
  const entries = new Map<string, { value: Value; expires: number }>()
  return {
    get(key) {
      const found = entries.get(key)
      return found && found.expires > performance.now() ? found.value : undefined
    },
    set(key, value) {
      const now = performance.now()
      entries.delete(key)
      entries.set(key, { value, expires: now + seconds * 1000 })
      for (const [oldest, { expires }] of entries) {
        if (expires > now && entries.size <= max) break
        entries.delete(oldest)
      }
    },
  }
}

// A map whose entries expire, with a bound on their number: memory of what was seen, for keys that arrive from outside.

export type ExpiringMap<Value> = {
  get(key: string): Value | undefined
  /** Stores an entry for the map's life from now on. */
  set(key: string, value: Value): void
}

/** `most` entries for `seconds` each. When there are more, the oldest are dropped. */
export function createExpiringMap<Value>({ seconds, most }: { seconds: number; most: number }): ExpiringMap<Value> {
  // A Map keeps the order of insertion, which is the order of expiry.
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
        if (expires > now && entries.size <= most) break
        entries.delete(oldest)
      }
    },
  }
}

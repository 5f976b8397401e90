// Device time of tenants in the recent past, which determines their priority.
import type { Terms } from './task.ts'

/** Half-life of usage, so that a burst does not count after a few minutes. Equal to the edge's (edge/gpu/slot-queue.ts). */
const HALF_LIFE_MS = 60_000
/** Lower usage is dropped. */
const NEGLIGIBLE_MS = 50
/**
 * Multiples of the mean usage: a tenant becomes heavy over `above`, and light again under `below`. With a lower `above`, regular tenants
 * would become heavy by chance; with equal values, two jobs could alternate at every step.
 */
const HEAVY = { above: 1.5, below: 0.8 }
/** Initial usage of a tenant, relative to the mean. With 1, its first job would make it heavy. */
const NEW_SHARE = 0.5
/** With less usage than this, about one image of 28 steps per minute, a tenant is never heavy. */
const LIGHT_MS = 3_000

/** `ms`: device time divided by weight. */
type Entry = { ms: number; at: number }

/** Usage with a half-life of a minute, divided by the tenant's weight. Times are milliseconds of one monotonic clock. */
export class Usage {
  readonly #entries = new Map<string, Entry>()
  readonly #heavy = new Set<string>()

  /** Adds a tenant with usage near the mean. With zero usage, a burst of a new tenant would delay regular tenants. */
  enter(tenant: string, now: number): void {
    if (!this.#entries.has(tenant)) this.#entries.set(tenant, { ms: NEW_SHARE * this.#mean(now), at: now })
  }

  charge({ tenant, weight }: Terms, ms: number, now: number): void {
    this.enter(tenant, now)
    this.#entries.set(tenant, { ms: decay(this.#entries.get(tenant)!, now) + ms / weight, at: now })
  }

  /** Forgets tenants without jobs and with negligible usage. */
  forget(active: ReadonlySet<string>, now: number): void {
    for (const [tenant, entry] of this.#entries)
      if (!active.has(tenant) && decay(entry, now) < NEGLIGIBLE_MS) {
        this.#entries.delete(tenant)
        this.#heavy.delete(tenant)
      }
  }

  /** Tenants with more than their share of the recent past. */
  heavyTenants(now: number): ReadonlySet<string> {
    const mean = this.#mean(now)
    for (const [tenant, entry] of this.#entries) {
      const factor = this.#heavy.has(tenant) ? HEAVY.below : HEAVY.above
      if (decay(entry, now) > Math.max(LIGHT_MS, factor * mean)) this.#heavy.add(tenant)
      else this.#heavy.delete(tenant)
    }
    return this.#heavy
  }

  #mean(now: number): number {
    const used = [...this.#entries.values()].map((entry) => decay(entry, now)).filter((ms) => ms >= NEGLIGIBLE_MS)
    return used.reduce((sum, ms) => sum + ms, 0) / Math.max(1, used.length)
  }
}

const decay = ({ ms, at }: Entry, now: number) => ms * 2 ** ((at - now) / HALF_LIFE_MS)

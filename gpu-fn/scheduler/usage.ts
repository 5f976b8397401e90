// Device time of tenants in the recent past, which determines their priority.
import type { Terms } from './task.ts'

/** Half-life of usage, so that a burst does not count after a few minutes. Equal to the edge's (edge/gpu/slot-queue.ts). */
const HALF_LIFE_MS = 60_000
/** Lower usage is dropped. */
const NEGLIGIBLE_MS = 50
/**
 * Multiples of the reference usage, which is the mean or a share of the largest: a tenant becomes heavy over `above`, and light again under
 * `below`. With a lower `above`, regular tenants would become heavy by chance; with equal values, two jobs could alternate at every step.
 */
const HEAVY = { above: 1.5, below: 0.8 }
/** Minimum of the reference, relative to the largest usage. With the mean alone, many small tenants would make regular ones heavy. */
const LARGEST_SHARE = 0.6
/**
 * Initial usage of a tenant, relative to the mean. With 1, tenants that arrive after a single one would have its usage, so that it would not be
 * heavy.
 */
const NEW_SHARE = 0.5
/** With less usage than this, about one image of 28 steps per minute, a tenant is never heavy. */
const LIGHT_MS = 3_000

/** `ms`: device time divided by weight. */
type Entry = { ms: number; at: number }

/** Usage with a half-life of a minute, divided by the tenant's weight. Times are milliseconds of one monotonic clock. */
export class Usage {
  readonly #entries = new Map<string, Entry>()
  readonly #heavy = new Set<string>()

  /** Adds a tenant with usage near the mean. With zero usage, its first burst would precede the jobs of regular tenants. */
  enter(tenant: string, now: number): void {
    if (!this.#entries.has(tenant)) this.#entries.set(tenant, { ms: NEW_SHARE * meanOf(this.#used(now)), at: now })
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

  /** Tenants that exceed the reference usage by the factors of `HEAVY`. */
  heavyTenants(now: number): ReadonlySet<string> {
    const used = this.#used(now)
    const reference = Math.max(meanOf(used), LARGEST_SHARE * largestOf(used))
    for (const [tenant, entry] of this.#entries) {
      const factor = this.#heavy.has(tenant) ? HEAVY.below : HEAVY.above
      if (decay(entry, now) > Math.max(LIGHT_MS, factor * reference)) this.#heavy.add(tenant)
      else this.#heavy.delete(tenant)
    }
    return this.#heavy
  }

  /** The usage of all tenants that is not negligible. */
  #used(now: number): number[] {
    return [...this.#entries.values()].map((entry) => decay(entry, now)).filter((ms) => ms >= NEGLIGIBLE_MS)
  }
}

const largestOf = (used: readonly number[]) => used.reduce((largest, ms) => Math.max(largest, ms), 0)
const meanOf = (used: readonly number[]) => used.reduce((sum, ms) => sum + ms, 0) / Math.max(1, used.length)
const decay = ({ ms, at }: Entry, now: number) => ms * 2 ** ((at - now) / HALF_LIFE_MS)

// Device time of tenants in the recent past, which determines their priority.
import type { Terms } from './task.ts'

/** Half-life of usage, so that a burst does not count after a few minutes. Equal to the edge's (edge/gpu/slot-queue.ts). */
const HALF_LIFE_MS = 60_000
/** Lower usage is dropped. */
const NEGLIGIBLE_MS = 50
/**
 * Multiples of the reference usage: a tenant becomes heavy over `above`, and light again under `below`. With a lower `above`, regular tenants
 * would become heavy by chance; with equal values, two jobs could alternate at every step.
 */
const HEAVY = { above: 1.5, below: 0.8 }
/**
 * The reference is the mean usage, at least this share of the largest one. Tenants with little usage lower the mean, so that without a
 * minimum, regular tenants would be as heavy as one that uses most of the device.
 */
const LARGEST_SHARE = 0.6
/** With less usage than this, about one image of 28 steps per minute, a tenant is never heavy. */
const LIGHT_MS = 3_000

/** `ms`: device time divided by weight. */
type Entry = { ms: number; at: number }

/** Usage with a half-life of a minute, divided by the tenant's weight. Times are milliseconds of one monotonic clock. */
export class Usage {
  readonly #entries = new Map<string, Entry>()
  readonly #heavy = new Set<string>()

  /** Adds a tenant with the mean usage. With zero usage, a burst of a new tenant would delay regular tenants. */
  enter(tenant: string, now: number): void {
    if (!this.#entries.has(tenant)) this.#entries.set(tenant, { ms: meanOf(this.#used(now)), at: now })
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

  /** Tenants whose usage far exceeds the mean and is close to the largest. */
  heavyTenants(now: number): ReadonlySet<string> {
    const used = this.#used(now)
    const reference = Math.max(meanOf(used), LARGEST_SHARE * Math.max(0, ...used))
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

const meanOf = (used: readonly number[]) => used.reduce((sum, ms) => sum + ms, 0) / Math.max(1, used.length)
const decay = ({ ms, at }: Entry, now: number) => ms * 2 ** ((at - now) / HALF_LIFE_MS)

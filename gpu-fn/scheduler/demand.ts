// Device time that tenants request, whether or not their jobs are accepted.
import type { Task } from './task.ts'

/** Long enough that a few large jobs by chance hardly change the mean. */
const HALF_LIFE_MS = 120_000
/** Minimum time over which the mean is computed. */
const SHORTEST_MS = 10_000

type Offer = Pick<Task, 'tenant' | 'interactive'>
type Entry = Offer & { ms: number; at: number }

/**
 * The mean device time per unit of time that each tenant requests in each class, with a half-life of two minutes. Unlike device time that
 * was used, it does not fall when a tenant's jobs have to wait.
 */
export class Demand {
  readonly #entries = new Map<string, Entry>()
  #first: number | undefined

  add({ tenant, interactive, left }: Task, now: number): void {
    this.#first ??= now
    const key = `${interactive} ${tenant}`
    const entry = this.#entries.get(key)
    this.#entries.set(key, { tenant, interactive, ms: (entry ? decay(entry, now) : 0) + left, at: now })
  }

  /** The share of the device that the selected tenants request in the selected classes; above 1 if it exceeds the whole device. */
  shareOf(applies: (offer: Offer) => boolean, now: number): number {
    const ms = [...this.#entries.values()].filter(applies).reduce((total, entry) => total + decay(entry, now), 0)
    const since = Math.max(SHORTEST_MS, now - (this.#first ?? now))
    return (ms * Math.LN2) / (HALF_LIFE_MS * (1 - 2 ** (-since / HALF_LIFE_MS)))
  }

  /** Removes tenants with a negligible demand. */
  forget(now: number): void {
    for (const [key, entry] of this.#entries) if (decay(entry, now) < 1) this.#entries.delete(key)
    if (this.#entries.size === 0) this.#first = undefined
  }
}

const decay = ({ ms, at }: Entry, now: number) => ms * 2 ** ((at - now) / HALF_LIFE_MS)

// Forecasts a request's duration and the probability of a cold start, from this deployment's recent jobs.

import { log } from '../platform/log.ts'
import { DAY_MS } from '../platform/units.ts'
import type { Observation } from './observation.ts'

/** `cold.probability` is the share of cold starts among similar runs. `seconds` is the caller's total wait. */
type Forecast = {
  observations: number
  cold: { probability: number; observations: number } | null
  seconds: { p50: number; p95: number } | null
}

export const NO_OBSERVATIONS: Forecast = { observations: 0, cold: null, seconds: null }

const computeQuantile = (sorted: readonly number[], q: number) =>
  sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)]!
const roundSeconds = (seconds: number) => Math.round(seconds * 1000) / 1000

/**
 * Minimum number of runs after a similar idle time, which best predict whether the GPU is still warm. With fewer of them, all runs count.
 */
const ALIKE_AT_LEAST = 3

/**
 * Maximum factor for scaling the time of a run to a larger job, unless there are too few runs. A tiny job's time is mostly fixed overhead,
 * so larger factors would overestimate.
 */
const MAX_SCALING = 16

/** Forecast for `work` megapixel-steps at `now`, from observations of one offer in any order. */
export function forecast(observed: readonly Observation[], work: number, now: number): Forecast {
  if (observed.length === 0) return NO_OBSERVATIONS
  const runs = observed.toSorted((a, b) => a.created - b.created)
  const idle = now - Math.max(...runs.map(({ finished }) => finished))
  const paused = runs.map((run, k) => ({ run, pause: k === 0 ? null : run.created - runs[k - 1]!.finished }))
  const alike = paused.filter(({ pause }) => pause !== null && pause <= Math.max(2 * idle, 10_000) && pause >= idle / 2)
  const basis = alike.length >= ALIKE_AT_LEAST ? alike.map(({ run }) => run) : runs
  const comparable = basis.filter(({ megapixel_steps }) => work <= MAX_SCALING * megapixel_steps)
  const seconds = (comparable.length >= ALIKE_AT_LEAST ? comparable : basis)
    .map(({ waited, load, run, megapixel_steps }) => waited + load + run * (work / megapixel_steps))
    .toSorted((a, b) => a - b)
  return {
    observations: runs.length,
    cold: { probability: basis.filter(({ load }) => load > 0).length / basis.length, observations: basis.length },
    seconds: { p50: roundSeconds(computeQuantile(seconds, 0.5)), p95: roundSeconds(computeQuantile(seconds, 0.95)) },
  }
}

const RECENT_MS = 7 * DAY_MS
const MAX_OBSERVATIONS = 200

type RunKey = Pick<Observation, 'endpoint' | 'model' | 'tier'>

const isSameAs = (ran: RunKey) => (each: RunKey) =>
  each.endpoint === ran.endpoint && each.model === ran.model && each.tier === ran.tier

/** Lifetime of an isolate's cached observations. Without the cache each quote would read hundreds of rows. */
const FRESH_MS = 10_000
// Caches values, not promises: no request may await another request's promise.
const cache = new Map<string, { at: number; rows: Observation[] }>()

const QUERY = `SELECT * FROM observations WHERE endpoint = ? AND model = ? AND tier = ? AND finished > ?
  ORDER BY finished DESC LIMIT ${MAX_OBSERVATIONS}`

/** The newest observations of one offer, at most a week old, cached for ten seconds. Empty if the database fails. */
async function observationsOf(db: D1Database, { endpoint, model, tier }: RunKey): Promise<Observation[]> {
  const name = `${endpoint}/${model}/${tier}`
  const cached = cache.get(name)
  if (cached && Date.now() - cached.at < FRESH_MS) return cached.rows
  const query = db.prepare(QUERY).bind(endpoint, model, tier, Date.now() - RECENT_MS)
  try {
    const { results: rows } = await query.all<Observation>()
    cache.set(name, { at: Date.now(), rows })
    return rows
  } catch (cause) {
    log('warn', 'observations could not be read', { endpoint, model, tier, cause })
    return []
  }
}

/** The newest observations of each offer. */
export async function selectObservations(db: D1Database, offers: readonly RunKey[]): Promise<Observation[]> {
  const distinct = offers.filter((offer, k) => offers.findIndex(isSameAs(offer)) === k)
  return (await Promise.all(distinct.map((offer) => observationsOf(db, offer)))).flat()
}

/** Discards the cached observations, for tests that write new ones. */
export const clearObservations = (): void => cache.clear()

/** The forecast for `work` megapixel-steps of one offer, from observations of any offers. */
export const forecastOffer = (seen: readonly Observation[], ran: RunKey, work: number): Forecast =>
  forecast(seen.filter(isSameAs(ran)), work, Date.now())

/** The 95th percentile of the latency in milliseconds; null if there are no observations. */
export function forecastLatencyMs(seen: readonly Observation[], ran: RunKey, work: number): number | null {
  const { seconds } = forecastOffer(seen, ran, work)
  return seconds && seconds.p95 * 1000
}

// Health of endpoints, as observed by jobs. The EndpointDO stores it; each isolate caches its last read and its last report.
import { configOf } from '../config.ts'
import { log } from '../platform/log.ts'
import type { NamedModel } from './client.ts'
import { DOWN_MS, type GpuState, type Health, isScheduled } from './readiness.ts'

/** Lifetime of a cached state. All readers of an endpoint share one object, so the cache limits its load. */
const STATE_MS = 1_000
/** Interval between reports of an unchanged health. It limits the calls by the jobs of a busy endpoint. */
const REPORT_MS = 10_000

/** Times are Unix milliseconds. Values, not promises, because a promise must not be awaited by a different request. */
type CachedHealth = {
  state?: { at: number; value: GpuState | null }
  reported?: { at: number; health: Health }
  downUntil: number
}
const cache = new Map<string, CachedHealth>()

function cachedOf(endpoint: string): CachedHealth {
  const cached = cache.get(endpoint) ?? { downUntil: 0 }
  cache.set(endpoint, cached)
  return cached
}

/** Clears the cached states. For tests. */
export function clearGpuStates(): void {
  for (const cached of cache.values()) delete cached.state
}

/** The state of an endpoint's GPU, at most a second old, without contacting the GPU. Null if the state is unavailable. */
export async function readGpuState(env: Env, endpoint: string): Promise<GpuState | null> {
  const cached = cachedOf(endpoint)
  if (cached.state && Date.now() - cached.state.at < STATE_MS) return cached.state.value
  const value = await env.ENDPOINT.getByName(endpoint)
    .state()
    .catch((cause: unknown) => {
      log('warn', 'the state of a GPU is unavailable', { endpoint, cause })
      return null
    })
  cached.state = { at: Date.now(), value }
  return value
}

/** Reports the health of an endpoint, as observed by a job. Failures are only logged, so callers do not await it. */
export async function reportHealth(env: Env, endpoint: string, health: Health): Promise<void> {
  const now = Date.now()
  const cached = cachedOf(endpoint)
  if (health === 'down') cached.downUntil = now + DOWN_MS
  if (health === 'ready') cached.downUntil = 0
  if (cached.reported?.health === health && now - cached.reported.at < REPORT_MS) return
  cached.reported = { at: now, health }
  await env.ENDPOINT.getByName(endpoint)
    .recordHealth(health)
    .catch((cause: unknown) => log('warn', 'the health of an endpoint could not be recorded', { endpoint, cause }))
}

/** The order of a job's endpoints for attempt n: rotated by one per attempt, and endpoints that are known to be down last. */
export function orderEndpoints(names: readonly string[], attempt: number, now = Date.now()): string[] {
  const turn = (attempt - 1) % names.length
  const rotated = [...names.slice(turn), ...names.slice(0, turn)]
  const isDown = (name: string) => Number((cache.get(name)?.downUntil ?? 0) > now)
  return rotated.toSorted((a, b) => isDown(a) - isDown(b))
}

/** Prewarms an endpoint's GPU before expected traffic. Failures are only logged, so callers do not await it. */
export async function prewarm(
  env: Env,
  endpoint: string,
  why: 'quote' | 'visit' | 'schedule',
  model?: NamedModel,
): Promise<void> {
  if (configOf(env).prewarm.budget_seconds === 0) return
  await env.ENDPOINT.getByName(endpoint)
    .prewarm(endpoint, why, model && { model: model.model, tier: model.tier })
    .catch((cause: unknown) => log('warn', 'a GPU could not be prewarmed', { endpoint, cause }))
}

/** Runs every minute: keeps scheduled endpoints warm. */
export async function prewarmOnSchedule(env: Env, now = Date.now()): Promise<void> {
  if (!isScheduled(configOf(env).prewarm, now)) return
  const names = new Set(configOf(env).catalog.offers.map(({ endpoint }) => endpoint))
  await Promise.all([...names].map((name) => prewarm(env, name, 'schedule')))
}

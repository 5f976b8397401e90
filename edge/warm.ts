// WarmDO: one endpoint. It records how its GPU stands, starts it before it is needed, and shares its slots among accounts.
import { DurableObject } from 'cloudflare:workers'
import { ActiveAccounts, readSlots } from './account-slots.ts'
import { readCatalogue } from './catalogue.ts'
import { endpointOf } from './endpoints.ts'
import type { Env } from './env.ts'
import { log } from './log.ts'
import {
  type GpuState,
  isScheduled,
  NEVER_SEEN,
  pingCost,
  readWarmPolicy,
  seenReady,
  seenStarting,
  spend,
  spentToday,
  startSeconds,
  stateOf,
  type Warmth,
} from './warm-policy.ts'

/** A host may hold a ping until its container is up. */
const PING_MS = 60_000
const LOOK_AGAIN_MS = 5_000

export type EndpointReport = GpuState & {
  start_seconds: number
  starts_seen: number
  budget_seconds: number
  spent_today_seconds: number
  spent_today_dollars: number
}

export class WarmDO extends DurableObject<Env> {
  readonly #accounts = new ActiveAccounts()

  #warmth(): Warmth {
    return this.ctx.storage.kv.get<Warmth>('warmth') ?? NEVER_SEEN
  }

  #keep(warmth: Warmth): void {
    this.ctx.storage.kv.put('warmth', warmth)
  }

  state(): GpuState {
    return stateOf(this.#warmth(), readWarmPolicy(this.env), Date.now())
  }

  report(): EndpointReport {
    const policy = readWarmPolicy(this.env)
    const warmth = this.#warmth()
    const spent = spentToday(warmth, Date.now())
    return {
      ...this.state(),
      start_seconds: startSeconds(warmth, policy),
      starts_seen: warmth.starts.length,
      budget_seconds: policy.budget_seconds,
      spent_today_seconds: spent,
      spent_today_dollars: (spent / 3600) * policy.dollars_per_hour,
    }
  }

  /** An account's share of the endpoint's slots, now that it has jobs for it. */
  shareOf(account: string): number {
    return this.#accounts.shareOf(account, readSlots(this.env), Date.now())
  }

  /** A job met the endpoint: ready, or starting for its sake. */
  saw(what: 'ready' | 'starting'): void {
    const see = what === 'ready' ? seenReady : seenStarting
    this.#keep(see(this.#warmth(), Date.now()))
  }

  /** Starts the GPU `name`, or keeps it, unless that is needless or beyond the budget. `why` is for the log. Returns how it stands. */
  async prewarm(name: string, why: 'quote' | 'visit' | 'schedule'): Promise<GpuState> {
    const policy = readWarmPolicy(this.env)
    const cost = pingCost(this.#warmth(), policy, Date.now())
    if (cost === null) return this.state()
    // Written down before the ping: of two that come at once, one is sent.
    const before = this.#warmth()
    const cold = this.state().state === 'cold'
    const spent = spend(before, cost, Date.now())
    this.#keep(cold ? seenStarting(spent, Date.now()) : { ...spent, ready: Date.now() })
    log('info', 'a GPU is warmed', { endpoint: name, why, seconds: cost, cold })
    this.ctx.storage.kv.put('name', name)
    this.ctx.waitUntil(this.#ping())
    return this.state()
  }

  override async alarm(): Promise<void> {
    if (this.state().state === 'starting') await this.#ping()
  }

  /** Asks whether it is ready; while it starts, again in a while. */
  async #ping(): Promise<void> {
    const { url, headers } = endpointOf(this.env, this.ctx.storage.kv.get<string>('name') ?? 'default')
    const init = { headers, redirect: 'manual', signal: AbortSignal.timeout(PING_MS) } as const
    const wasStarting = this.state().state === 'starting'
    // A redirect is not followed: the headers carry the host's secret.
    const response = await fetch(`${url.replace(/\/$/, '')}/ping`, init).catch(() => null)
    response?.body?.cancel().catch(() => {})
    if (response?.status === 200) return this.#keep(seenReady(this.#warmth(), Date.now()))
    // Given up while the ping was on its way, or ready by another sign: to begin another start is the next sign of traffic's, within the budget.
    if (wasStarting && this.state().state !== 'starting') return
    this.#keep(seenStarting(this.#warmth(), Date.now()))
    await this.ctx.storage.setAlarm(Date.now() + LOOK_AGAIN_MS)
  }
}

/** How long an isolate reuses an endpoint's state. One object serves every reader of an endpoint, so reads must not reach it one by one. */
const STATE_MS = 1_000
// Values, not promises: a promise of one request must not be awaited by another.
const states = new Map<string, { at: number; state: GpuState | null }>()

/** The state of an endpoint's GPU, at most a second old, without a request to it; null when it is not known at the moment. */
export async function gpuState(env: Env, endpoint: string): Promise<GpuState | null> {
  const cached = states.get(endpoint)
  if (cached && Date.now() - cached.at < STATE_MS) return cached.state
  const state = await env.WARM.getByName(endpoint)
    .state()
    .catch((cause: unknown) => {
      log('warn', 'the state of a GPU is not known', { endpoint, cause })
      return null
    })
  states.set(endpoint, { at: Date.now(), state })
  return state
}

/** Discards the cached states, for tests that change them. */
export const clearGpuStates = (): void => states.clear()

/** Has an endpoint's GPU started because somebody is about to need it. A caller need not wait for it, nor hear of its failure. */
export async function prewarm(env: Env, endpoint: string, why: 'quote' | 'visit' | 'schedule'): Promise<void> {
  if (readWarmPolicy(env).budget_seconds === 0) return
  await env.WARM.getByName(endpoint)
    .prewarm(endpoint, why)
    .catch((cause: unknown) => log('warn', 'a GPU could not be warmed', { endpoint, cause }))
}

/** The last report of this isolate about each endpoint, so that a busy endpoint does not get one for every job. */
const reports = new Map<string, { what: 'ready' | 'starting'; at: number }>()
const REPORT_AGAIN_MS = 10_000

/** Records that a job found the endpoint ready or starting. It is used for forecasts only, so a failure is logged and ignored. */
export async function reportWarmth(env: Env, endpoint: string, what: 'ready' | 'starting'): Promise<void> {
  const last = reports.get(endpoint)
  if (last?.what === what && Date.now() - last.at < REPORT_AGAIN_MS) return
  reports.set(endpoint, { what, at: Date.now() })
  await env.WARM.getByName(endpoint)
    .saw(what)
    .catch((cause: unknown) => log('warn', 'the state of a GPU could not be recorded', { endpoint, cause }))
}

/** Each minute: keeps warm what the schedule wants. */
export async function keepSchedule(env: Env, now = Date.now()): Promise<void> {
  if (!isScheduled(readWarmPolicy(env), now)) return
  const names = new Set(readCatalogue(env).offers.map(({ endpoint }) => endpoint))
  await Promise.all([...names].map((name) => prewarm(env, name, 'schedule')))
}

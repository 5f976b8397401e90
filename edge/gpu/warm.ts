// WarmDO: one object per endpoint. It tracks the GPU's state, prewarms it, and grants its slots to jobs.
import { DurableObject } from 'cloudflare:workers'
import { log } from '../platform/log.ts'
import { objectOf } from '../platform/objects.ts'
import { readRecovery } from '../platform/recovery.ts'
import { readCatalogue } from '../routing/catalogue.ts'
import { endpointOf } from './endpoints.ts'
import { readSlots, SlotQueue } from './slot-queue.ts'
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

/** The ping timeout. A host may delay the response until its container is running. */
const PING_MS = 60_000
const PING_INTERVAL_MS = 5_000

export type EndpointReport = GpuState & {
  start_seconds: number
  starts_seen: number
  budget_seconds: number
  spent_today_seconds: number
  spent_today_dollars: number
}

/** A slot expires after this many missed renewals of its job, which renews it at every alarm. */
const MISSED_RENEWALS = 3

export class WarmDO extends DurableObject<Env> {
  readonly #queue: SlotQueue

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#queue = new SlotQueue(MISSED_RENEWALS * readRecovery(env).jobMs)
  }

  #warmth(): Warmth {
    return this.ctx.storage.kv.get<Warmth>('warmth') ?? NEVER_SEEN
  }

  #save(warmth: Warmth): void {
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

  /** Adds a job to the queue for a slot, or renews its place. Returns whether it has a slot; otherwise it is called later (`proceed`). */
  requestSlot(job: string, account: string): boolean {
    this.#queue.enter(job, account, Date.now())
    this.#grantSlots(job)
    return this.#queue.holds(job)
  }

  /** Renews the slot of a running job. */
  renewSlot(job: string, account: string): void {
    this.#queue.resume(job, account, Date.now())
  }

  /** Removes a job from the queue or from its slot. */
  releaseSlot(job: string): void {
    this.#queue.leave(job, Date.now())
    this.#grantSlots()
  }

  /** Grants the free slots and starts their jobs, except for the `caller`. */
  #grantSlots(caller?: string): void {
    const now = Date.now()
    for (const job of this.#queue.expire(now)) log('warn', 'a slot expired', { job })
    for (const job of this.#queue.grant(readSlots(this.env), now))
      if (job !== caller) this.ctx.waitUntil(this.#start(job))
  }

  async #start(job: string): Promise<void> {
    const failed = (cause: unknown) => log('warn', 'a job could not be started in its slot', { job, cause })
    if (!(await objectOf(this.env.JOB, job).proceed().catch(failed))) this.releaseSlot(job)
  }

  /** Records the state in which a job found the endpoint. */
  saw(what: 'ready' | 'starting'): void {
    const update = what === 'ready' ? seenReady : seenStarting
    this.#save(update(this.#warmth(), Date.now()))
  }

  /** Starts the GPU `name` or keeps it warm, unless that is unnecessary or over budget. `why` is for the log. Returns the GPU's state. */
  async prewarm(name: string, why: 'quote' | 'visit' | 'schedule'): Promise<GpuState> {
    const policy = readWarmPolicy(this.env)
    const cost = pingCost(this.#warmth(), policy, Date.now())
    if (cost === null) return this.state()
    // Saved before the ping, so that concurrent calls send only one.
    const before = this.#warmth()
    const cold = this.state().state === 'cold'
    const spent = spend(before, cost, Date.now())
    this.#save(cold ? seenStarting(spent, Date.now()) : { ...spent, ready: Date.now() })
    log('info', 'prewarming a GPU', { endpoint: name, why, seconds: cost, cold })
    this.ctx.storage.kv.put('name', name)
    this.ctx.waitUntil(this.#ping())
    return this.state()
  }

  override async alarm(): Promise<void> {
    if (this.state().state === 'starting') await this.#ping()
  }

  /** Pings the GPU function, and again after PING_INTERVAL_MS while it is starting. */
  async #ping(): Promise<void> {
    const { url, headers } = endpointOf(this.env, this.ctx.storage.kv.get<string>('name') ?? 'default')
    const init = { headers, redirect: 'manual', signal: AbortSignal.timeout(PING_MS) } as const
    const wasStarting = this.state().state === 'starting'
    // Redirects are not followed, because the headers contain the host's secret.
    const response = await fetch(`${url.replace(/\/$/, '')}/ping`, init).catch(() => null)
    response?.body?.cancel().catch(() => {})
    if (response?.status === 200) return this.#save(seenReady(this.#warmth(), Date.now()))
    // The state changed during the ping: the start timed out, or a job found the GPU ready. Only new traffic may trigger another start.
    if (wasStarting && this.state().state !== 'starting') return
    this.#save(seenStarting(this.#warmth(), Date.now()))
    await this.ctx.storage.setAlarm(Date.now() + PING_INTERVAL_MS)
  }
}

/** How long an isolate caches an endpoint's state. All readers of an endpoint share one object, so the cache limits its load. */
const STATE_MS = 1_000
// Values, not promises, because a promise must not be awaited by a different request.
const states = new Map<string, { at: number; state: GpuState | null }>()

/** Returns the state of an endpoint's GPU, at most a second old, without contacting the GPU. Returns null if the state is unavailable. */
export async function gpuState(env: Env, endpoint: string): Promise<GpuState | null> {
  const cached = states.get(endpoint)
  if (cached && Date.now() - cached.at < STATE_MS) return cached.state
  const state = await env.WARM.getByName(endpoint)
    .state()
    .catch((cause: unknown) => {
      log('warn', 'the state of a GPU is unavailable', { endpoint, cause })
      return null
    })
  states.set(endpoint, { at: Date.now(), state })
  return state
}

/** Clears the cached states. For tests. */
export const clearGpuStates = (): void => states.clear()

/** Prewarms an endpoint's GPU before expected traffic. Callers need not await it; failures are only logged. */
export async function prewarm(env: Env, endpoint: string, why: 'quote' | 'visit' | 'schedule'): Promise<void> {
  if (readWarmPolicy(env).budget_seconds === 0) return
  await env.WARM.getByName(endpoint)
    .prewarm(endpoint, why)
    .catch((cause: unknown) => log('warn', 'a GPU could not be prewarmed', { endpoint, cause }))
}

/** The last report of this isolate for each endpoint, so that not every job of a busy endpoint is reported. */
const reports = new Map<string, { what: 'ready' | 'starting'; at: number }>()
const REPORT_AGAIN_MS = 10_000

/** Records that a job found the endpoint ready or starting. Used only for forecasts, so failures are logged and ignored. */
export async function reportWarmth(env: Env, endpoint: string, what: 'ready' | 'starting'): Promise<void> {
  const last = reports.get(endpoint)
  if (last?.what === what && Date.now() - last.at < REPORT_AGAIN_MS) return
  reports.set(endpoint, { what, at: Date.now() })
  await env.WARM.getByName(endpoint)
    .saw(what)
    .catch((cause: unknown) => log('warn', 'the state of a GPU could not be recorded', { endpoint, cause }))
}

/** Runs every minute: keeps scheduled endpoints warm. */
export async function keepSchedule(env: Env, now = Date.now()): Promise<void> {
  if (!isScheduled(readWarmPolicy(env), now)) return
  const names = new Set(readCatalogue(env).offers.map(({ endpoint }) => endpoint))
  await Promise.all([...names].map((name) => prewarm(env, name, 'schedule')))
}

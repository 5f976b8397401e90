// EndpointDO: one object per endpoint. It tracks the GPU's state, prewarms it, and grants its slots to jobs.
import { DurableObject } from 'cloudflare:workers'
import { configOf } from '../config.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { log } from '../platform/log.ts'
import { spendGpuTime } from './budget.ts'
import { type NamedModel, openModel } from './client.ts'
import { endpointOf } from './endpoints.ts'
import { chooseWindow, type Gaps, NO_GAPS, recordGap } from './idle-window.ts'
import {
  countSpentToday,
  type EndpointReport,
  type GpuState,
  type Health,
  isDown,
  markDown,
  markReady,
  markStarting,
  NO_READINESS,
  pingCost,
  type Readiness,
  recordSpending,
  startSeconds,
  stateOf,
} from './readiness.ts'
import { SlotQueue, type Terms } from './slot-queue.ts'

/** The ping timeout. A host may delay the response until its container is running. */
const PING_MS = 60_000
const PING_INTERVAL_MS = 5_000

const MARK = { ready: markReady, starting: markStarting, down: markDown }

/** The share of the host's idle time after which a ping extends it. Above 0.5, because no ping is due while more than half is left. */
const EXTEND = 0.75

/** The gaps between jobs, the end of the last job, and the end of the time for which the GPU is kept. Times are Unix milliseconds. */
type Keep = { gaps: Gaps; ended: number | null; until: number }

/** A slot expires after this many missed renewals of its job, which renews it at every alarm. */
const MISSED_RENEWALS = 3

export class EndpointDO extends DurableObject<Env> {
  readonly #queue: SlotQueue
  /** Models to open, by the endpoint's name. */
  readonly #models = new Map<string, NamedModel>()

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#queue = new SlotQueue(MISSED_RENEWALS * configOf(env).recovery.jobMs)
  }

  #readiness(): Readiness {
    return this.ctx.storage.kv.get<Readiness>('warmth') ?? NO_READINESS
  }

  #save(readiness: Readiness): void {
    this.ctx.storage.kv.put('warmth', readiness)
  }

  state(): GpuState {
    return stateOf(this.#readiness(), configOf(this.env).prewarm, Date.now())
  }

  report(): EndpointReport {
    const policy = configOf(this.env).prewarm
    const readiness = this.#readiness()
    const spent = countSpentToday(readiness, Date.now())
    return {
      ...this.state(),
      down: isDown(readiness, Date.now()),
      start_seconds: startSeconds(readiness, policy),
      starts_seen: readiness.starts.length,
      budget_seconds: policy.budget_seconds,
      spent_today_seconds: spent,
      spent_today_dollars: (spent / 3600) * policy.dollars_per_hour,
    }
  }

  /** Adds a job to the queue for a slot, or renews its place. Returns whether it has a slot; otherwise it is called later (`proceed`). */
  requestSlot(job: string, terms: Terms): boolean {
    this.#observeArrival()
    this.#queue.enter(job, terms, Date.now())
    this.#grantSlots(job)
    return this.#queue.hasSlot(job)
  }

  /** Renews the slot of a running job. */
  renewSlot(job: string, terms: Terms): void {
    this.#queue.resume(job, terms, Date.now())
  }

  /** Removes a job from the queue or from its slot. */
  releaseSlot(job: string): void {
    this.#queue.leave(job, Date.now())
    this.#grantSlots()
    if (this.#queue.isEmpty()) this.ctx.waitUntil(this.#keepWhileWorthwhile())
  }

  /** Grants the free slots and starts their jobs, except for the `caller`. */
  #grantSlots(caller?: string): void {
    const now = Date.now()
    for (const job of this.#queue.expire(now)) log('warn', 'a slot expired', { job })
    for (const job of this.#queue.grant(configOf(this.env).gpuSlots, now))
      if (job !== caller) this.ctx.waitUntil(this.#start(job))
  }

  async #start(job: string): Promise<void> {
    const logFailure = (cause: unknown) => log('warn', 'a job could not be started in its slot', { job, cause })
    if (!(await objectOf(this.env.JOB, job).proceed().catch(logFailure))) this.releaseSlot(job)
  }

  /** Records the health that a job observed. */
  recordHealth(health: Health): void {
    this.#save(MARK[health](this.#readiness(), Date.now()))
  }

  /** Starts the GPU `name` or keeps it warm, unless that is unnecessary or over budget. `why` is for the log. Returns the GPU's state. */
  async prewarm(name: string, why: 'quote' | 'visit' | 'schedule' | 'traffic', model?: NamedModel): Promise<GpuState> {
    const policy = configOf(this.env).prewarm
    if (model) this.#models.set(name, model)
    const cost = pingCost(this.#readiness(), policy, Date.now())
    if (cost === null) {
      if (this.state().state === 'warm') this.ctx.waitUntil(this.#openModel(name))
      return this.state()
    }
    // Saved before the ping, so that concurrent calls send only one.
    const before = this.#readiness()
    const cold = this.state().state === 'cold'
    const spent = recordSpending(before, cost, Date.now())
    this.#save(cold ? markStarting(spent, Date.now()) : { ...spent, ready: Date.now() })
    if (!(await spendGpuTime(this.env, cost * 1000))) {
      this.#save(before)
      return this.state()
    }
    log('info', 'prewarming a GPU', { endpoint: name, why, seconds: cost, cold })
    this.ctx.storage.kv.put('name', name)
    this.ctx.waitUntil(this.#ping())
    return this.state()
  }

  override async alarm(): Promise<void> {
    const { state } = this.state()
    if (state === 'starting') return this.#ping()
    if (state === 'warm' && Date.now() < this.#keep().until) await this.#extend()
  }

  #keep(): Keep {
    const { gaps = NO_GAPS, ended = null, until = 0 } = this.ctx.storage.kv.get<Keep>('keep') ?? {}
    // Gaps that were counted by other classes cannot be used.
    return { gaps: gaps.counts.length === NO_GAPS.counts.length ? gaps : NO_GAPS, ended, until }
  }

  /** Records the gap since the last job, if the endpoint was idle. */
  #observeArrival(): void {
    const keep = this.#keep()
    if (configOf(this.env).prewarm.wait_worth === null || keep.ended === null || !this.#queue.isEmpty()) return
    const gaps = recordGap(keep.gaps, (Date.now() - keep.ended) / 1000)
    this.ctx.storage.kv.put('keep', { gaps, ended: null, until: 0 } satisfies Keep)
  }

  /** Keeps the GPU of the idle endpoint for the window that `chooseWindow` derives from recent gaps. */
  async #keepWhileWorthwhile(): Promise<void> {
    const { prewarm } = configOf(this.env)
    if (prewarm.wait_worth === null) return
    const { gaps } = this.#keep()
    const cost = startSeconds(this.#readiness(), prewarm) * (1 + prewarm.wait_worth)
    const until = Date.now() + 1000 * chooseWindow(gaps, cost, prewarm.idle_seconds)
    this.ctx.storage.kv.put('keep', { gaps, ended: Date.now(), until } satisfies Keep)
    await this.#scheduleExtension()
  }

  /** Sends a ping shortly before the host would end the container, if the budget covers it. */
  async #extend(): Promise<void> {
    await this.prewarm(this.ctx.storage.kv.get<string>('name') ?? 'default', 'traffic')
    await this.#scheduleExtension()
  }

  async #scheduleExtension(): Promise<void> {
    const at = Date.now() + EXTEND * 1000 * configOf(this.env).prewarm.idle_seconds
    if (at < this.#keep().until) await this.ctx.storage.setAlarm(at)
  }

  /** Opens the model of the latest prewarming on the ready GPU, once. */
  async #openModel(name: string): Promise<void> {
    const model = this.#models.get(name)
    this.#models.delete(name)
    if (model) await openModel(endpointOf(this.env, name), configOf(this.env).gpuSigningKey, model)
  }

  /** Pings the GPU function, and again after PING_INTERVAL_MS while it is starting. */
  async #ping(): Promise<void> {
    const { url, headers } = endpointOf(this.env, this.ctx.storage.kv.get<string>('name') ?? 'default')
    const init = { headers, redirect: 'manual', signal: AbortSignal.timeout(PING_MS) } as const
    const wasStarting = this.state().state === 'starting'
    // Redirects are not followed, because the headers contain the host's secret.
    const response = await fetch(`${url.replace(/\/$/, '')}/ping`, init).catch(() => null)
    response?.body?.cancel().catch(() => {})
    if (response?.status === 200) {
      this.#save(markReady(this.#readiness(), Date.now()))
      return this.#openModel(this.ctx.storage.kv.get<string>('name') ?? 'default')
    }
    // The state changed during the ping: the start timed out, or a job found the GPU ready. Only new traffic may trigger another start.
    if (wasStarting && this.state().state !== 'starting') return
    this.#save(markStarting(this.#readiness(), Date.now()))
    await this.ctx.storage.setAlarm(Date.now() + PING_INTERVAL_MS)
  }
}

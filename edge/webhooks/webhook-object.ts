// WebhookDO: the webhooks of one account. It stores the endpoints, events and attempt log, and sends the webhooks, driven by its alarm.
import { DurableObject } from 'cloudflare:workers'
import type { WebhookSettings } from '../config/webhooks.ts'
import { configOf } from '../config.ts'
import { log } from '../platform/log.ts'
import { Outbox } from '../platform/outbox.ts'
import { settleAttempt, type TakenAttempt, takeAttempt } from './delivery/attempts.ts'
import { createDeliveryTables, deliveriesOfEvent, listDeliveries, type Page } from './delivery/deliveries.ts'
import type { DeliveryView, WebhookEvent } from './delivery/delivery.ts'
import { postWebhook } from './delivery/post.ts'
import { type Range, REPLAY_SCHEMA } from './delivery/replays.ts'
import { DEFAULT_ENDPOINT, ENDPOINT_SCHEMA, type EndpointFields } from './endpoints/endpoints.ts'
import { ensureKey, findVerificationKey, KEY_SCHEMA, rotateKey, type VerificationKey } from './endpoints/keys.ts'
import { findNextAttempt, pruneReceivers, RECEIVER_SCHEMA } from './endpoints/receivers.ts'
import type { Scheme, SigningKey } from './endpoints/signature.ts'
import { openProgress, type ProgressOutcome } from './progress.ts'
import {
  publishOnce,
  publishTo,
  type ReplayedRange,
  type ReplayResult,
  replayEvent,
  replaySpan,
} from './publication.ts'
import {
  changeRegistration,
  type EndpointView,
  type Registration,
  register,
  unregister,
  viewEndpoints,
} from './registration.ts'
import {
  deleteEvent,
  deleteExpired,
  type ExportedEvent,
  exportEvents,
  findNextExpiry,
  findNextGivenUp,
  giveUpOverdue,
} from './retention.ts'

/** The time limit of one alarm, below the platform limit of 15 minutes. The next alarm resumes the work. */
const RUN_MS = 10 * 60_000
/** The pause after a run with an internal failure. */
const PAUSE_MS = { first: 30_000, max: 10 * 60_000 }
/** The runtime's limit of simultaneous connections. */
const MAX_ATTEMPTS = 6
const EXPORT_PAGE = 100

export class WebhookDO extends DurableObject<Env> {
  readonly #sql: SqlStorage
  readonly #settings: WebhookSettings
  readonly #outbox: Outbox<TakenAttempt>
  readonly #sendProgress: ReturnType<typeof openProgress>

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#sql = ctx.storage.sql
    this.#settings = configOf(env).webhooks
    this.#outbox = new Outbox({
      name: 'webhooks',
      prepare: () => this.#transact(() => this.#tidy()),
      take: (running) => this.#transact(() => takeAttempt(this.#sql, running, this.#settings)),
      send: (attempt, stop) => this.#makeAttempt(attempt, stop),
      nextDue: () => this.#nextAlarm(),
      ...{ concurrency: MAX_ATTEMPTS, pauseMs: PAUSE_MS },
    })
    this.#sendProgress = openProgress(env, this.#sql, this.#settings)
    this.#createTables()
  }

  endpoints(): EndpointView[] {
    return viewEndpoints(this.#sql)
  }

  endpoint(id: string): EndpointView | null {
    return this.endpoints().find((endpoint) => endpoint.id === id) ?? null
  }

  /** Adds an endpoint with its first key, or returns the conflict that prevents it. Idempotent for the same id. */
  addEndpoint(id: string, fields: EndpointFields, key: SigningKey): Registration {
    return this.#transact(() => register(this.#sql, id, fields, key))
  }

  /** Updates the given fields and resets the circuit breaker. Disabling drops pending deliveries. Returns null if the endpoint does not exist. */
  async changeEndpoint(id: string, changes: Partial<EndpointFields>): Promise<Registration | null> {
    const registration = this.#transact(() => changeRegistration(this.#sql, id, changes))
    await this.#schedule()
    return registration
  }

  removeEndpoint(id: string): boolean {
    return this.#transact(() => unregister(this.#sql, id))
  }

  /** Returns the verification key of an endpoint, or null if the endpoint does not exist. It may be a secret, so only its owner may see it. */
  async verificationKey(endpoint: string): Promise<VerificationKey | null> {
    if (endpoint === DEFAULT_ENDPOINT) await ensureKey(this.#sql, endpoint, 'hmac')
    return findVerificationKey(this.#sql, endpoint)
  }

  /**
   * Replaces the key by the one of `keys` with this scheme, by default the current scheme. The previous key also signs for `overlapMs`. Null if
   * the endpoint does not exist. Idempotent for the same keys.
   */
  async rotate(
    endpoint: string,
    scheme: Scheme | undefined,
    overlapMs: number,
    keys: Record<Scheme, SigningKey>,
  ): Promise<VerificationKey | null> {
    const current = await this.verificationKey(endpoint)
    if (!current) return null
    this.#transact(() => rotateKey(this.#sql, endpoint, keys[scheme ?? current.scheme], overlapMs))
    return this.verificationKey(endpoint)
  }

  /**
   * Publishes an event to every endpoint subscribed to its type, and to `url` if given; only once per equivalent URL. Idempotent, so the
   * caller may retry until it succeeds.
   */
  async publish(event: WebhookEvent, url: string | null): Promise<void> {
    if (url !== null) await ensureKey(this.#sql, DEFAULT_ENDPOINT, 'hmac')
    this.#transact(() => publishOnce(this.#sql, event, url))
    await this.#schedule()
  }

  /** Sends an event about a job's progress to the request's URL, once, signed as its other webhooks. */
  sendProgress(event: WebhookEvent, url: string): Promise<ProgressOutcome> {
    return this.#sendProgress(event, url)
  }

  /** Publishes an event to one endpoint, regardless of its subscriptions. Counts toward the replay limit. */
  async publishTo(endpoint: string, event: WebhookEvent): Promise<ReplayResult> {
    const replayed = this.#transact(() => publishTo(this.#sql, endpoint, event, this.#settings.replaysPerMinute))
    await this.#schedule()
    return replayed
  }

  deliveries(endpoint: string, page: Page): DeliveryView[] {
    return listDeliveries(this.#sql, endpoint, page)
  }

  /** Returns the deliveries of an event to all endpoints. */
  deliveriesOf(event: string): (DeliveryView & { endpoint: string })[] {
    return deliveriesOfEvent(this.#sql, event)
  }

  /** Replays an event with a new retry schedule. A delivered event is replayed only with `all`. */
  async replay(endpoint: string, event: string, all: boolean): Promise<ReplayResult> {
    const { replaysPerMinute } = this.#settings
    const replayed = this.#transact(() => replayEvent(this.#sql, endpoint, event, all, replaysPerMinute))
    await this.#schedule()
    return replayed
  }

  /** Replays a range of events, up to the replay limit. `next` is the cursor for the next call, or null at the end. */
  async replayRange(endpoint: string, span: Omit<Range, 'types' | 'limit'>): Promise<ReplayedRange> {
    const replayed = this.#transact(() => replaySpan(this.#sql, endpoint, span, this.#settings.replaysPerMinute))
    await this.#schedule()
    return replayed
  }

  /** Returns a page of all data except secrets: endpoints on the first page, and events after the time `after` with their deliveries. */
  exportAll(after: number | null = null): { endpoints: EndpointView[]; events: ExportedEvent[]; next: number | null } {
    const events = exportEvents(this.#sql, after ?? 0, EXPORT_PAGE)
    const next = events.length < EXPORT_PAGE ? null : events.at(-1)!.created
    return { endpoints: after === null ? this.endpoints() : [], events, next }
  }

  /** Deletes a job's event and its deliveries, including pending ones. */
  forgetJob(job: string): void {
    this.#transact(() => deleteEvent(this.#sql, `evt_${job}`))
  }

  /** Deletes all data of the account: endpoints, keys, events and deliveries. Attempts in progress are aborted. */
  async eraseAccount(): Promise<void> {
    // Prevents new attempts while those in progress end.
    this.#sql.exec('DELETE FROM deliveries; DELETE FROM receivers')
    await this.#outbox.stop()
    await this.ctx.blockConcurrencyWhile(async () => {
      await this.ctx.storage.deleteAlarm()
      await this.ctx.storage.deleteAll()
      this.#createTables()
    })
  }

  /** Makes due attempts and deletes expired data. */
  override async alarm(): Promise<void> {
    await this.#outbox.run(Date.now() + RUN_MS)
    const next = this.#outbox.nextRun()
    if (next === null) await this.ctx.storage.deleteAlarm()
    else await this.ctx.storage.setAlarm(next)
  }

  #tidy(): void {
    deleteExpired(this.#sql)
    pruneReceivers(this.#sql)
    for (const [endpoint, count] of giveUpOverdue(this.#sql, this.#settings.lifetimeMs))
      log('error', 'webhooks were given up', { account: this.ctx.id.name, endpoint, count })
  }

  async #makeAttempt(taken: TakenAttempt, stop: AbortSignal): Promise<void> {
    const names = { account: this.ctx.id.name, event: taken.event.id, endpoint: taken.endpoint }
    try {
      const started = Date.now()
      const answer = await postWebhook(this.env, taken, this.#settings.timeoutMs, stop)
      const duration = Date.now() - started
      const state = this.#transact(() => settleAttempt(this.#sql, taken, answer, duration, this.#settings))
      if (state === 'exhausted') log('error', 'a webhook was given up', names)
    } catch (cause) {
      // The attempt is retried when its lease expires.
      log('error', 'the outcome of a webhook could not be stored', { ...names, cause })
    }
  }

  #createTables(): void {
    this.#sql.exec(ENDPOINT_SCHEMA + KEY_SCHEMA + RECEIVER_SCHEMA + REPLAY_SCHEMA)
    createDeliveryTables(this.#sql)
  }

  #transact<T>(change: () => T): T {
    return this.ctx.storage.transactionSync(change)
  }

  #nextAlarm(): number | null {
    const { lifetimeMs } = this.#settings
    const times = [findNextAttempt(this.#sql), findNextGivenUp(this.#sql, lifetimeMs), findNextExpiry(this.#sql)]
    const next = Math.min(...times.map((time) => time ?? Number.POSITIVE_INFINITY))
    return next === Number.POSITIVE_INFINITY ? null : next
  }

  /** Wakes the running alarm, and schedules the next one in case none is running. */
  async #schedule(): Promise<void> {
    this.#outbox.wake()
    const [next, set] = [this.#nextAlarm(), await this.ctx.storage.getAlarm()]
    if (next !== null && (set === null || next < set)) await this.ctx.storage.setAlarm(next)
  }
}

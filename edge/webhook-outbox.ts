// WebhookDO: the outbox of one account. It holds who listens, what is to be told, and what came of every attempt. The queue is only
// its clock: a message says "look at this delivery now", and what is lost or doubled there is made good here.
import { DurableObject } from 'cloudflare:workers'
import type { Env } from './env.ts'
import { readRecovery } from './recovery.ts'
import { type Next, settleAttempt, type Taken, takeDelivery } from './webhook-attempts.ts'
import {
  DELIVERY_SCHEMA,
  type DeliveryView,
  deliveriesOfEvent,
  dropPending,
  eventsToReplay,
  findDelivery,
  findEvent,
  forgetEvents,
  insertDelivery,
  insertEvent,
  listDeliveries,
  logAttempt,
  nextDue,
  oldestEvent,
  overdue,
  type Page,
  type Range,
  restartDelivery,
  type WebhookEvent,
} from './webhook-deliveries.ts'
import {
  DEFAULT_ENDPOINT,
  deleteEndpoint,
  ENDPOINT_SCHEMA,
  type Endpoint,
  type EndpointFields,
  EVENT_TYPES,
  findEndpoint,
  insertEndpoint,
  type KeyView,
  listEndpoints,
  liveKeys,
  MAX_ENDPOINTS,
  newEndpointId,
  rotateKey,
  updateEndpoint,
} from './webhook-endpoints.ts'
import { type DeliveryRef, enqueue } from './webhook-queue.ts'
import { type Answer, judge, readSchedule } from './webhook-schedule.ts'
import { newSigningKey, type Scheme, type SigningKey } from './webhook-signature.ts'

/** How long an attempt may take before another one may be made: WEBHOOK_TIMEOUT_SECONDS so many times over. */
const LEASE = 4
const KEEP_MS = 30 * 24 * 3_600_000
const SWEEP = 1000
const EXPORT_PAGE = 100

export type EndpointView = Endpoint & { keys: KeyView[] }

const withoutSecret = ({ secret: _, ...view }: SigningKey & KeyView): KeyView => view

export class WebhookDO extends DurableObject<Env> {
  readonly #sql: SqlStorage
  readonly #schedule: number[]
  /** How late a delivery is before the alarm puts it into the queue again. */
  readonly #lateMs: number

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#sql = ctx.storage.sql
    this.#schedule = readSchedule(env.WEBHOOK_RETRY_SECONDS)
    this.#lateMs = readRecovery(env).webhookMs
    this.#sql.exec(`${ENDPOINT_SCHEMA};${DELIVERY_SCHEMA}`)
  }

  endpoints(): EndpointView[] {
    return listEndpoints(this.#sql).map((endpoint) => this.#view(endpoint))
  }

  endpoint(id: string): EndpointView | null {
    const endpoint = findEndpoint(this.#sql, id)
    return endpoint && this.#view(endpoint)
  }

  /** Adds a receiver with its first key; null when the account has as many as it may. */
  async addEndpoint(fields: EndpointFields, scheme: Scheme): Promise<EndpointView | null> {
    const [id, key] = [newEndpointId(), await newSigningKey(scheme)]
    if (listEndpoints(this.#sql).length >= MAX_ENDPOINTS) return null
    this.ctx.storage.transactionSync(() => {
      insertEndpoint(this.#sql, id, fields)
      rotateKey(this.#sql, id, key, 0)
    })
    return this.endpoint(id)
  }

  /** Changes what is given. Disabling drops what is pending; null when there is no such endpoint. */
  changeEndpoint(id: string, changes: Partial<EndpointFields>): EndpointView | null {
    const endpoint = findEndpoint(this.#sql, id)
    if (!endpoint) return null
    updateEndpoint(this.#sql, id, { ...endpoint, ...changes })
    if (changes.disabled) dropPending(this.#sql, id)
    return this.endpoint(id)
  }

  removeEndpoint(id: string): boolean {
    dropPending(this.#sql, id)
    return deleteEndpoint(this.#sql, id)
  }

  /** The keys that sign for an endpoint, newest first; `default` gets its first one when it is asked for. */
  async keys(endpoint: string): Promise<KeyView[]> {
    if (endpoint === DEFAULT_ENDPOINT && liveKeys(this.#sql, endpoint).length === 0) await this.#addDefaultKey()
    return liveKeys(this.#sql, endpoint).map(withoutSecret)
  }

  /** A new key for an endpoint; the one before it signs as well for `overlapMs`. */
  async rotate(endpoint: string, scheme: Scheme, overlapMs: number): Promise<KeyView[]> {
    const key = await newSigningKey(scheme)
    this.ctx.storage.transactionSync(() => rotateKey(this.#sql, endpoint, key, overlapMs))
    return this.keys(endpoint)
  }

  /** Tells an event to every endpoint that takes its type, and to `url` if given. Repeats change nothing but send again what is pending. */
  async publish(event: WebhookEvent, url: string | null): Promise<void> {
    const endpoints = listEndpoints(this.#sql)
    if (url === null && endpoints.length === 0) return
    if (url !== null) await this.keys(DEFAULT_ENDPOINT)
    const takers = endpoints.filter(({ events, disabled }) => !disabled && events.includes(event.type))
    const ids = [...takers.map(({ id }) => id), ...(url === null ? [] : [DEFAULT_ENDPOINT])]
    this.ctx.storage.transactionSync(() => {
      insertEvent(this.#sql, event)
      for (const id of ids) insertDelivery(this.#sql, event.id, id, id === DEFAULT_ENDPOINT ? url : null)
    })
    await this.#send(ids.map((id) => [event.id, id]))
  }

  /** Tells an event to one endpoint, whatever its filter. */
  async publishTo(endpoint: string, event: WebhookEvent): Promise<void> {
    insertEvent(this.#sql, event)
    insertDelivery(this.#sql, event.id, endpoint)
    await this.#send([[event.id, endpoint]])
  }

  deliveries(endpoint: string, page: Page): DeliveryView[] {
    return listDeliveries(this.#sql, endpoint, page)
  }

  /** What became of an event, for each endpoint that takes it. */
  deliveriesOf(event: string): (DeliveryView & { endpoint: string })[] {
    return deliveriesOfEvent(this.#sql, event)
  }

  /** Delivers an event again from the start of the schedule; false when it is not known or was never meant for `default`. */
  async replay(endpoint: string, event: string): Promise<boolean> {
    if (!findEvent(this.#sql, event)) return false
    if (endpoint === DEFAULT_ENDPOINT && !findDelivery(this.#sql, event, endpoint)) return false
    restartDelivery(this.#sql, event, endpoint)
    await this.#send([[event, endpoint]])
    return true
  }

  /** Delivers a span of events again; `next` is where the following call goes on, null at the end. */
  async replayRange(endpoint: string, range: Omit<Range, 'types'>): Promise<{ count: number; next: number | null }> {
    const types = findEndpoint(this.#sql, endpoint)?.events ?? EVENT_TYPES
    const found = eventsToReplay(this.#sql, endpoint, { ...range, types })
    for (const { id } of found) restartDelivery(this.#sql, id, endpoint)
    await this.#send(found.map(({ id }) => [id, endpoint]))
    return { count: found.length, next: found.length < range.limit ? null : found.at(-1)!.created }
  }

  /** Starts an attempt if one is due. `known` is the last one that the caller knows of. */
  take(event: string, endpoint: string, known?: number): Taken | Next {
    const leaseMs = LEASE * Number(this.env.WEBHOOK_TIMEOUT_SECONDS) * 1000
    return takeDelivery(this.#sql, event, endpoint, leaseMs, known)
  }

  /** Logs the attempt that holds `lease` and decides what follows. */
  record(event: string, endpoint: string, lease: number, answer: Answer, milliseconds: number): Next {
    logAttempt(this.#sql, event, endpoint, answer, milliseconds)
    return settleAttempt(this.#sql, event, endpoint, lease, judge(answer, Date.now()), this.#schedule)
  }

  /** A page of everything but secrets: the endpoints on the first page, and events after the cursor `after` with their deliveries. */
  exportAll(after: number | null = null) {
    const rows = this.#sql
      .exec<{ rowid: number; id: string; type: string; created: number; body: string }>(
        'SELECT rowid, id, type, created, body FROM events WHERE rowid > ? ORDER BY rowid LIMIT ?',
        ...[after ?? 0, EXPORT_PAGE],
      )
      .toArray()
    const events = rows.map(({ rowid: _, body, ...event }) => {
      const { data } = JSON.parse(body) as { data: { images?: { key: string }[] } }
      const images = data.images?.map(({ key: _, ...image }) => image)
      return { ...event, data: { ...data, ...(images && { images }) }, deliveries: this.deliveriesOf(event.id) }
    })
    const next = rows.length < EXPORT_PAGE ? null : rows.at(-1)!.rowid
    return { endpoints: after === null ? this.endpoints() : [], events, next }
  }

  /** Deletes what was sent about a job. A pending delivery is no longer made. */
  forgetJob(job: string): void {
    for (const table of ['attempts', 'deliveries']) this.#sql.exec(`DELETE FROM ${table} WHERE event = ?`, `evt_${job}`)
    this.#sql.exec('DELETE FROM events WHERE id = ?', `evt_${job}`)
  }

  /** Deletes everything: endpoints, keys, events and deliveries. */
  async eraseAccount(): Promise<void> {
    await this.ctx.storage.deleteAlarm()
    await this.ctx.storage.deleteAll()
    this.#sql.exec(`${ENDPOINT_SCHEMA};${DELIVERY_SCHEMA}`)
  }

  /** Puts what the queue lost into it again, and forgets what is old. */
  override async alarm(): Promise<void> {
    forgetEvents(this.#sql, Date.now() - KEEP_MS)
    await this.#send(
      overdue(this.#sql, Date.now() - this.#lateMs, SWEEP).map(({ event, endpoint }) => [event, endpoint]),
    )
  }

  #view(endpoint: Endpoint): EndpointView {
    return { ...endpoint, keys: liveKeys(this.#sql, endpoint.id).map(withoutSecret) }
  }

  async #addDefaultKey(): Promise<void> {
    const key = await newSigningKey('hmac')
    if (liveKeys(this.#sql, DEFAULT_ENDPOINT).length === 0) rotateKey(this.#sql, DEFAULT_ENDPOINT, key, 0)
  }

  /** Sets the alarm that makes good for the queue, then hands these deliveries to it. */
  async #send(refs: (readonly [event: string, endpoint: string])[]): Promise<void> {
    const [due, oldest] = [nextDue(this.#sql), oldestEvent(this.#sql)]
    const next = Math.min(
      due === null ? Number.POSITIVE_INFINITY : Math.max(due, Date.now()) + this.#lateMs,
      oldest === null ? Number.POSITIVE_INFINITY : oldest + KEEP_MS,
    )
    // An alarm that is set stays: in an account that is never quiet it would else be put off for ever.
    const armed = (await this.ctx.storage.getAlarm()) ?? Number.POSITIVE_INFINITY
    if (next < armed) await this.ctx.storage.setAlarm(next)
    const account = this.ctx.id.name!
    const messages = refs.map(([event, endpoint]): DeliveryRef => ({ account, event, endpoint }))
    await enqueue(this.env, messages)
  }
}

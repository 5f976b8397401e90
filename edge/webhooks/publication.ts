// Creates and replays the deliveries of events. Call each function in a transaction.
import { findDelivery, findEvent, insertDelivery, insertEvent } from './delivery/deliveries.ts'
import type { Target, WebhookEvent } from './delivery/delivery.ts'
import {
  countAvailableReplays,
  limitReplays,
  type Range,
  type ReplayLimit,
  restartDelivery,
  selectEventsToReplay,
  spendReplays,
} from './delivery/replays.ts'
import { DEFAULT_ENDPOINT, type Endpoint, findByAddress, findEndpoint, listEndpoints } from './endpoints/endpoints.ts'
import { EVENT_TYPES } from './endpoints/event-types.ts'
import { admitTrial, refreshReceiver } from './endpoints/receivers.ts'

export type ReplayedRange = ReplayLimit | { kind: 'replayed'; count: number; next: number | null }
export type ReplayResult = ReplayLimit | { kind: 'replayed' } | { kind: 'unknown' } | { kind: 'delivered' }

/** Returns the endpoints subscribed to a type and the URL given in a request, without duplicate URLs. */
function targetsOf(endpoints: readonly Endpoint[], type: string, url: string | null): Target[] {
  const subscribers: Endpoint[] = []
  for (const endpoint of endpoints) {
    const isSubscribed = !endpoint.disabled && endpoint.events.some((each) => each === type)
    if (isSubscribed && !findByAddress(subscribers, endpoint.url)) subscribers.push(endpoint)
  }
  const same = url === null ? null : findByAddress(subscribers, url)
  const targets = subscribers.map((each) => ({ endpoint: each.id, url: each.url, named: each === same }))
  return url === null || same ? targets : [...targets, { endpoint: DEFAULT_ENDPOINT, url, named: true }]
}

/** Stores an event with its deliveries. Idempotent. Stores nothing if the account has no endpoints and `url` is null. */
export function publishOnce(sql: SqlStorage, event: WebhookEvent, url: string | null): void {
  const endpoints = listEndpoints(sql)
  if (endpoints.length === 0 && url === null) return
  if (!insertEvent(sql, event)) return
  for (const target of targetsOf(endpoints, event.type, url)) insertDelivery(sql, event.id, target)
}

/** Returns the target of a replay, or null if the endpoint is unknown or the event has no delivery to `default`. */
function replayTarget(sql: SqlStorage, event: string, endpoint: string): Target | null {
  const url = findDelivery(sql, event, endpoint)?.url ?? findEndpoint(sql, endpoint)?.url
  return url === undefined ? null : { endpoint, url, named: endpoint === DEFAULT_ENDPOINT }
}

/** Restarts deliveries at the owner's request. They count toward the replay limit, and an open circuit breaker admits a trial. */
function restart(sql: SqlStorage, events: readonly string[], endpoint: string, perMinute: number): void {
  spendReplays(sql, perMinute, events.length)
  for (const event of events) {
    restartDelivery(sql, event, replayTarget(sql, event, endpoint)!)
    const { receiver } = findDelivery(sql, event, endpoint)!
    admitTrial(sql, receiver)
    refreshReceiver(sql, receiver)
  }
}

/** Replays an event with a new retry schedule. A delivered event is replayed only with `all`. */
export function replayEvent(
  sql: SqlStorage,
  endpoint: string,
  event: string,
  all: boolean,
  perMinute: number,
): ReplayResult {
  if (!findEvent(sql, event) || !replayTarget(sql, event, endpoint)) return { kind: 'unknown' }
  if (!all && findDelivery(sql, event, endpoint)?.state === 'delivered') return { kind: 'delivered' }
  const limited = limitReplays(sql, perMinute)
  if (limited) return limited
  restart(sql, [event], endpoint, perMinute)
  return { kind: 'replayed' }
}

/** Replays a range of events, up to the replay limit. `next` is the cursor for the next call, or null at the end. */
export function replaySpan(
  sql: SqlStorage,
  endpoint: string,
  span: Omit<Range, 'types' | 'limit'>,
  perMinute: number,
): ReplayedRange {
  const types = findEndpoint(sql, endpoint)?.events ?? EVENT_TYPES
  const limit = Math.floor(countAvailableReplays(sql, perMinute))
  const { ids, next, limited } = selectEventsToReplay(sql, endpoint, { ...span, types, limit })
  const refusal = limited && ids.length === 0 ? limitReplays(sql, perMinute) : null
  if (refusal) return refusal
  restart(sql, ids, endpoint, perMinute)
  return { kind: 'replayed', count: ids.length, next }
}

/** Publishes a new event to one endpoint, regardless of its subscriptions. Counts toward the replay limit. */
export function publishTo(sql: SqlStorage, endpoint: string, event: WebhookEvent, perMinute: number): ReplayResult {
  if (!findEndpoint(sql, endpoint)) return { kind: 'unknown' }
  const limited = limitReplays(sql, perMinute)
  if (limited) return limited
  insertEvent(sql, event)
  restart(sql, [event.id], endpoint, perMinute)
  return { kind: 'replayed' }
}

/** Returns a test event for an endpoint. */
export function testEvent(origin: string): WebhookEvent {
  const [type, timestamp] = ['webhook.test' as const, new Date().toISOString()]
  const body = JSON.stringify({ type, timestamp, data: { object: 'test', message: 'This endpoint works.' } })
  return { id: `evt_test_${crypto.getRandomValues(new Uint8Array(12)).toHex()}`, type, body, origin }
}

// Which deliveries an event gets, at first and again. Call these in a transaction.
import {
  findDelivery,
  findEvent,
  insertDelivery,
  insertEvent,
  type Target,
  type WebhookEvent,
} from './webhook-deliveries.ts'
import {
  DEFAULT_ENDPOINT,
  type Endpoint,
  EVENT_TYPES,
  findByAddress,
  findEndpoint,
  listEndpoints,
} from './webhook-endpoints.ts'
import { admitTrial, refreshReceiver } from './webhook-receivers.ts'
import {
  availableReplays,
  eventsToReplay,
  type Limited,
  limitReplays,
  type Range,
  restartDelivery,
  spendReplays,
} from './webhook-replays.ts'

export type ReplayedRange = Limited | { kind: 'replayed'; count: number; next: number | null }
export type Replayed = Limited | { kind: 'replayed' } | { kind: 'unknown' } | { kind: 'delivered' }

/** The endpoints that take a type and the address that a request named, each address once. */
function targetsOf(endpoints: readonly Endpoint[], type: string, url: string | null): Target[] {
  const takers: Endpoint[] = []
  for (const endpoint of endpoints) {
    const takes = !endpoint.disabled && endpoint.events.some((each) => each === type)
    if (takes && !findByAddress(takers, endpoint.url)) takers.push(endpoint)
  }
  const same = url === null ? null : findByAddress(takers, url)
  const targets = takers.map((each) => ({ endpoint: each.id, url: each.url, named: each === same }))
  return url === null || same ? targets : [...targets, { endpoint: DEFAULT_ENDPOINT, url, named: true }]
}

/** Stores an event with its deliveries, once. An account without endpoints and without `url` stores nothing. */
export function publishOnce(sql: SqlStorage, event: WebhookEvent, url: string | null): void {
  const endpoints = listEndpoints(sql)
  if (endpoints.length === 0 && url === null) return
  if (!insertEvent(sql, event)) return
  for (const target of targetsOf(endpoints, event.type, url)) insertDelivery(sql, event.id, target)
}

/** Where a replay to an endpoint goes; null when the endpoint is unknown, or the event never was for `default`. */
function replayTarget(sql: SqlStorage, event: string, endpoint: string): Target | null {
  const url = findDelivery(sql, event, endpoint)?.url ?? findEndpoint(sql, endpoint)?.url
  return url === undefined ? null : { endpoint, url, named: endpoint === DEFAULT_ENDPOINT }
}

/** Restarts deliveries because the owner asks for them: they are metered, and an open breaker admits a trial. */
function restart(sql: SqlStorage, events: readonly string[], endpoint: string, perMinute: number): void {
  spendReplays(sql, perMinute, events.length)
  for (const event of events) {
    restartDelivery(sql, event, replayTarget(sql, event, endpoint)!)
    const { receiver } = findDelivery(sql, event, endpoint)!
    admitTrial(sql, receiver)
    refreshReceiver(sql, receiver)
  }
}

/** Sends an event again from the start of the schedule. One that was delivered is sent only with `all`. */
export function replayEvent(
  sql: SqlStorage,
  endpoint: string,
  event: string,
  all: boolean,
  perMinute: number,
): Replayed {
  if (!findEvent(sql, event) || !replayTarget(sql, event, endpoint)) return { kind: 'unknown' }
  if (!all && findDelivery(sql, event, endpoint)?.state === 'delivered') return { kind: 'delivered' }
  const limited = limitReplays(sql, perMinute)
  if (limited) return limited
  restart(sql, [event], endpoint, perMinute)
  return { kind: 'replayed' }
}

/** Sends a span of events again, as many as the meter allows now. `next` is where the following call goes on, null at the end. */
export function replaySpan(
  sql: SqlStorage,
  endpoint: string,
  span: Omit<Range, 'types' | 'limit'>,
  perMinute: number,
): ReplayedRange {
  const types = findEndpoint(sql, endpoint)?.events ?? EVENT_TYPES
  const limit = Math.floor(availableReplays(sql, perMinute))
  const { ids, next, limited } = eventsToReplay(sql, endpoint, { ...span, types, limit })
  const refusal = limited && ids.length === 0 ? limitReplays(sql, perMinute) : null
  if (refusal) return refusal
  restart(sql, ids, endpoint, perMinute)
  return { kind: 'replayed', count: ids.length, next }
}

/** Sends a new event to one endpoint, whatever its filter. It is metered as a replay is. */
export function publishTo(sql: SqlStorage, endpoint: string, event: WebhookEvent, perMinute: number): Replayed {
  if (!findEndpoint(sql, endpoint)) return { kind: 'unknown' }
  const limited = limitReplays(sql, perMinute)
  if (limited) return limited
  insertEvent(sql, event)
  restart(sql, [event.id], endpoint, perMinute)
  return { kind: 'replayed' }
}

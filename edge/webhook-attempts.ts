// Which attempt may start now, and what follows from its outcome, over the SQLite of WebhookDO.
import { normalizeAddress } from './webhook-address.ts'
import {
  type Delivery,
  dropPending,
  findDelivery,
  findEvent,
  logAttempt,
  nextDelivery,
  saveDelivery,
  type WebhookEvent,
} from './webhook-deliveries.ts'
import { DEFAULT_ENDPOINT, disableEndpoint, findEndpoint } from './webhook-endpoints.ts'
import { liveKeys } from './webhook-keys.ts'
import { type Busy, nextReceiver, recordFailure, recordSuccess, refreshReceiver } from './webhook-receivers.ts'
import { type Answer, judge, type Settings, waitAfter } from './webhook-schedule.ts'
import type { SigningKey } from './webhook-signature.ts'

/** An attempt lasts at most the timeout. Its lease is longer, for the case that its object dies and the receiver still works on it. */
const LEASE = 4

/** What one attempt sends, and `lease`, under which its outcome counts. */
export type Taken = {
  event: WebhookEvent
  endpoint: string
  receiver: string
  host: string
  lease: number
  url: string
  keys: SigningKey[]
}

/**
 * Starts the attempt that has waited longest among receivers that are not busy: pending, due, not leased, its breaker closed or ready for
 * a trial. Null when there is none. Deliveries of endpoints that take no more end here.
 */
export function takeAttempt(sql: SqlStorage, busy: Busy, { timeoutMs }: Settings): Taken | null {
  for (;;) {
    const now = Date.now()
    const receiver = nextReceiver(sql, now, busy)
    if (!receiver) return null
    const delivery = nextDelivery(sql, receiver.id, now)
    // Its deliveries were deleted since.
    if (!delivery) refreshReceiver(sql, receiver.id)
    const taken = delivery && take(sql, delivery, receiver.host, now + LEASE * timeoutMs)
    if (taken) return taken
  }
}

function take(sql: SqlStorage, delivery: Delivery, host: string, leased_until: number): Taken | null {
  const { endpoint, receiver } = delivery
  const event = findEvent(sql, delivery.event)
  const registered = findEndpoint(sql, endpoint)
  const url = delivery.url ?? (registered?.disabled ? undefined : registered?.url)
  if (!event || url === undefined) {
    saveDelivery(sql, { ...delivery, state: 'dropped' })
    return null
  }
  const lease = delivery.lease + 1
  saveDelivery(sql, { ...delivery, lease, leased_until: Math.round(leased_until) })
  return { event, endpoint, receiver, host, lease, url, keys: keysOf(sql, delivery) }
}

/** An address that is registered and that a request named as well is verified with either secret, so both sign. */
const keysOf = (sql: SqlStorage, { endpoint, url }: Delivery): SigningKey[] => [
  ...liveKeys(sql, endpoint),
  ...(url !== null && endpoint !== DEFAULT_ENDPOINT ? liveKeys(sql, DEFAULT_ENDPOINT) : []),
]

/**
 * Logs an attempt and decides what follows. A success always counts; anything else only if no later attempt has started. A delivery that was
 * deleted meanwhile leaves no trace. Returns the state of the delivery, null when it is unknown.
 */
export function settleAttempt(
  sql: SqlStorage,
  { event, endpoint, receiver, lease }: Pick<Taken, 'endpoint' | 'receiver' | 'lease'> & { event: { id: string } },
  answer: Answer,
  milliseconds: number,
  settings: Settings,
): Delivery['state'] | null {
  const delivery = findDelivery(sql, event.id, endpoint)
  if (!delivery) return null
  logAttempt(sql, event.id, endpoint, answer, milliseconds)
  const verdict = judge(answer, Date.now())
  const pause = verdict.kind === 'failed' ? verdict.pause : 0
  if (verdict.kind === 'delivered') recordSuccess(sql, receiver)
  else if (!isOurs(answer)) recordFailure(sql, receiver, { breakerMs: settings.breakerMs, pauseMs: pause * 1000 })
  const counts = delivery.state === 'pending' && (delivery.lease === lease || verdict.kind === 'delivered')
  if (!counts) {
    refreshReceiver(sql, receiver)
    return delivery.state
  }
  const next = { ...delivery, leased_until: 0, ...outcomeOf(verdict.kind, pause, delivery, settings.schedule) }
  saveDelivery(sql, next)
  if (verdict.kind === 'gone') disableGone(sql, delivery)
  return next.state
}

/** Whether an attempt failed without a request to the receiver. */
const isOurs = (answer: Answer) => 'error' in answer && (answer.error === 'blocked' || answer.error === 'internal')

type Outcome = Pick<Delivery, 'state'> & Partial<Pick<Delivery, 'failures' | 'due'>>

/** The next attempt waits for as long as the schedule says, or as the receiver asked for, whichever is longer. */
function outcomeOf(
  kind: ReturnType<typeof judge>['kind'],
  pause: number,
  delivery: Delivery,
  schedule: readonly number[],
): Outcome {
  if (kind === 'delivered') return { state: 'delivered' }
  if (kind !== 'failed') return { state: 'refused' }
  const failures = delivery.failures + 1
  const wait = waitAfter(failures, schedule)
  // Whole milliseconds: a STRICT table refuses an INTEGER with a fraction.
  const due = Math.round(Date.now() + Math.max(wait ?? 0, pause) * 1000)
  return { state: wait === null ? 'exhausted' : 'pending', failures, due }
}

/** 410 from an endpoint's address disables it, even when it was called because a request named it. */
function disableGone(sql: SqlStorage, { endpoint, url }: Delivery): void {
  const registered = findEndpoint(sql, endpoint)
  if (!registered || (url !== null && normalizeAddress(url) !== normalizeAddress(registered.url))) return
  disableEndpoint(sql, endpoint, 'gone')
  dropPending(sql, endpoint)
}

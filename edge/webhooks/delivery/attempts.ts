// Selects the next attempt and processes its outcome, over the SQLite of WebhookDO.
import type { WebhookSettings } from '../../config/webhooks.ts'
import { normalizeAddress } from '../endpoints/address.ts'
import { DEFAULT_ENDPOINT, disableEndpoint, findEndpoint } from '../endpoints/endpoints.ts'
import { selectLiveKeys } from '../endpoints/keys.ts'
import {
  type BusyReceivers,
  recordFailure,
  recordSuccess,
  refreshReceiver,
  selectFailingReceivers,
  selectNextReceiver,
} from '../endpoints/receivers.ts'
import type { SigningKey } from '../endpoints/signature.ts'
import { dropPending, findDelivery, findEvent, logAttempt, saveDelivery, selectNextDelivery } from './deliveries.ts'
import type { Delivery, WebhookEvent } from './delivery.ts'
import { type Answer, evaluate, waitAfter } from './schedule.ts'

/** The lease in multiples of the timeout. It exceeds the timeout in case the object restarts while the receiver is still processing. */
const LEASE = 4

const MAX_OF_HOST = 4
/** The limit for a receiver whose last attempt failed, including the trial of an open circuit breaker. */
const MAX_OF_FAILING = 1

/** An attempt to make. Its outcome is ignored unless `lease` is still that of the delivery. */
export type TakenAttempt = {
  event: WebhookEvent
  endpoint: string
  receiver: string
  host: string
  lease: number
  url: string
  keys: SigningKey[]
}

const countOf = (names: readonly string[]) =>
  [...Map.groupBy(names, (name) => name)].map(([name, all]) => ({ name, count: all.length }))

/** The receivers and hosts at their limit of concurrent attempts, so that an unresponsive receiver does not delay others. */
function collectBusy(sql: SqlStorage, running: readonly TakenAttempt[]): BusyReceivers {
  const receivers = countOf(running.map(({ receiver }) => receiver))
  const failing = selectFailingReceivers(
    sql,
    receivers.map(({ name }) => name),
  )
  const full = receivers.filter(({ name, count }) => count >= (failing.includes(name) ? MAX_OF_FAILING : MAX_OF_HOST))
  const hosts = countOf(running.map(({ host }) => host)).filter(({ count }) => count >= MAX_OF_HOST)
  return { receivers: full.map(({ name }) => name), hosts: hosts.map(({ name }) => name) }
}

/**
 * Takes the longest-waiting attempt of a receiver that is not busy with `running` attempts: pending, due, not leased, and with a closed
 * circuit breaker or one due for a trial. Returns null if there is none. Drops deliveries whose endpoint was disabled or deleted.
 */
export function takeAttempt(
  sql: SqlStorage,
  running: readonly TakenAttempt[],
  { timeoutMs }: WebhookSettings,
): TakenAttempt | null {
  const busy = collectBusy(sql, running)
  for (;;) {
    const now = Date.now()
    const receiver = selectNextReceiver(sql, now, busy)
    if (!receiver) return null
    const delivery = selectNextDelivery(sql, receiver.id, now)
    // The receiver's deliveries were deleted in the meantime.
    if (!delivery) refreshReceiver(sql, receiver.id)
    const taken = delivery && take(sql, delivery, receiver.host, now + LEASE * timeoutMs)
    if (taken) return taken
  }
}

function take(sql: SqlStorage, delivery: Delivery, host: string, leased_until: number): TakenAttempt | null {
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

/** Receivers may verify a URL that is both registered and given in a request with either key, so both keys sign. */
const keysOf = (sql: SqlStorage, { endpoint, url }: Delivery): SigningKey[] => [
  ...selectLiveKeys(sql, endpoint),
  ...(url !== null && endpoint !== DEFAULT_ENDPOINT ? selectLiveKeys(sql, DEFAULT_ENDPOINT) : []),
]

/**
 * Logs an attempt and updates its delivery. A success always counts; any other outcome counts only if no later attempt has started. Returns
 * the state of the delivery, or null without logging if it was deleted in the meantime.
 */
export function settleAttempt(
  sql: SqlStorage,
  {
    event,
    endpoint,
    receiver,
    lease,
  }: Pick<TakenAttempt, 'endpoint' | 'receiver' | 'lease'> & { event: { id: string } },
  answer: Answer,
  milliseconds: number,
  settings: WebhookSettings,
): Delivery['state'] | null {
  const delivery = findDelivery(sql, event.id, endpoint)
  if (!delivery) return null
  logAttempt(sql, event.id, endpoint, answer, milliseconds)
  const evaluation = evaluate(answer, Date.now())
  const pause = evaluation.kind === 'failed' ? evaluation.pause : 0
  if (evaluation.kind === 'delivered') recordSuccess(sql, receiver)
  else if (!isUnsent(answer)) recordFailure(sql, receiver, { breakerMs: settings.breakerMs, pauseMs: pause * 1000 })
  const isCounted = delivery.state === 'pending' && (delivery.lease === lease || evaluation.kind === 'delivered')
  if (!isCounted) {
    refreshReceiver(sql, receiver)
    return delivery.state
  }
  const next = { ...delivery, leased_until: 0, ...outcomeOf(evaluation.kind, pause, delivery, settings.schedule) }
  saveDelivery(sql, next)
  if (evaluation.kind === 'gone') disableGone(sql, delivery)
  return next.state
}

/** Whether an attempt failed before a request was sent to the receiver. */
const isUnsent = (answer: Answer) => 'error' in answer && (answer.error === 'blocked' || answer.error === 'internal')

type Outcome = Pick<Delivery, 'state'> & Partial<Pick<Delivery, 'failures' | 'due'>>

/** Returns the changes to a delivery. The retry delay is the longer of the scheduled delay and the receiver's Retry-After. */
function outcomeOf(
  kind: ReturnType<typeof evaluate>['kind'],
  pause: number,
  delivery: Delivery,
  schedule: readonly number[],
): Outcome {
  if (kind === 'delivered') return { state: 'delivered' }
  if (kind !== 'failed') return { state: 'refused' }
  const failures = delivery.failures + 1
  const wait = waitAfter(failures, schedule)
  // Rounded, because an INTEGER column of a STRICT table rejects fractions.
  const due = Math.round(Date.now() + Math.max(wait ?? 0, pause) * 1000)
  return { state: wait === null ? 'exhausted' : 'pending', failures, due }
}

/** Disables an endpoint after a 410 from its URL, even if the delivery was for the same URL in a request. */
function disableGone(sql: SqlStorage, { endpoint, url }: Delivery): void {
  const registered = findEndpoint(sql, endpoint)
  if (!registered || (url !== null && normalizeAddress(url) !== normalizeAddress(registered.url))) return
  disableEndpoint(sql, endpoint, 'gone')
  dropPending(sql, endpoint)
}

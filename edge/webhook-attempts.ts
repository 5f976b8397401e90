// What one attempt of a delivery may do and what follows from its outcome, over the SQLite of WebhookDO.
import {
  type Delivery,
  dropPending,
  findDelivery,
  findEvent,
  saveDelivery,
  type WebhookEvent,
} from './webhook-deliveries.ts'
import { disableEndpoint, findEndpoint, liveKeys, pauseEndpoint } from './webhook-endpoints.ts'
import { type Verdict, waitAfter } from './webhook-schedule.ts'
import type { SigningKey } from './webhook-signature.ts'

/** What one attempt sends, and `lease`, under which its outcome counts. */
export type Taken = { kind: 'send'; lease: number; url: string; event: WebhookEvent; keys: SigningKey[] }
/** `wait`: look again after so many seconds, knowing of attempts up to `lease`. `exhausted`: the last attempt failed. */
export type Next = { kind: 'wait'; seconds: number; lease: number } | { kind: 'done' } | { kind: 'exhausted' }

const DONE = { kind: 'done' } as const
const waitUntil = (moment: number, { lease }: Delivery): Next => {
  return { kind: 'wait', seconds: Math.max(0, moment - Date.now()) / 1000, lease }
}

/**
 * Starts an attempt for `leaseMs`, unless the delivery is over, not due yet, or held by an attempt that may still be running. Who knows of
 * attempts up to `known` only need not wait for it: whoever made the later one does.
 */
export function takeDelivery(
  sql: SqlStorage,
  event: string,
  endpoint: string,
  leaseMs: number,
  known = Number.POSITIVE_INFINITY,
): Taken | Next {
  const delivery = findDelivery(sql, event, endpoint)
  const told = findEvent(sql, event)
  if (!told || delivery?.state !== 'pending') return DONE
  const receiver = findEndpoint(sql, endpoint)
  const url = delivery.url ?? (receiver?.disabled ? undefined : receiver?.url)
  if (url === undefined) {
    saveDelivery(sql, { ...delivery, state: 'dropped' })
    return DONE
  }
  const free = Math.max(delivery.due, delivery.leased_until, receiver?.paused_until ?? 0)
  if (free > Date.now()) return known < delivery.lease ? DONE : waitUntil(free, delivery)
  const lease = delivery.lease + 1
  saveDelivery(sql, { ...delivery, lease, leased_until: Date.now() + leaseMs })
  return { kind: 'send', lease, url, event: told, keys: liveKeys(sql, endpoint) }
}

/** Decides what follows an attempt. Success always counts; anything else only if no later attempt has taken over. */
export function settleAttempt(
  sql: SqlStorage,
  event: string,
  endpoint: string,
  lease: number,
  verdict: Verdict,
  schedule: readonly number[],
): Next {
  const delivery = findDelivery(sql, event, endpoint)
  if (delivery?.state !== 'pending' || (delivery.lease !== lease && verdict.kind !== 'delivered')) return DONE
  if (verdict.kind === 'failed') return planNext(sql, delivery, verdict.pause, schedule)
  saveDelivery(sql, { ...delivery, state: verdict.kind === 'delivered' ? 'delivered' : 'refused' })
  if (verdict.kind === 'gone' && delivery.url === null) {
    disableEndpoint(sql, endpoint, 'gone')
    dropPending(sql, endpoint)
  }
  return DONE
}

/** The wait before the next attempt, the schedule's or what the receiver asked for, whichever is longer. */
function planNext(sql: SqlStorage, delivery: Delivery, pause: number, schedule: readonly number[]): Next {
  const now = Date.now()
  const failures = delivery.failures + 1
  const wait = waitAfter(failures, schedule)
  // Whole milliseconds: a STRICT table refuses an INTEGER with a fraction.
  const due = Math.round(now + Math.max(wait ?? 0, pause) * 1000)
  if (pause > 0) pauseEndpoint(sql, delivery.endpoint, Math.round(now + pause * 1000))
  saveDelivery(sql, { ...delivery, state: wait === null ? 'exhausted' : 'pending', failures, due, leased_until: 0 })
  return wait === null ? { kind: 'exhausted' } : waitUntil(due, delivery)
}

// Webhooks about a job's progress, for callers of dialects that request them. Each is sent once: a later one replaces it.
import type { WebhookSettings } from '../config/webhooks.ts'
import type { WebhookEvent } from './delivery/delivery.ts'
import { postWebhook } from './delivery/post.ts'
import { evaluate } from './delivery/schedule.ts'
import { hostOf } from './endpoints/address.ts'
import { DEFAULT_ENDPOINT } from './endpoints/endpoints.ts'
import { ensureKey, selectLiveKeys } from './endpoints/keys.ts'
import { isPaused, recordFailure, recordSuccess, saveReceiver } from './endpoints/receivers.ts'

/** As for deliveries: a slow receiver must not take all connections. */
const MAX_OF_HOST = 4

/**
 * `sent`: the receiver has it, or a later one replaces it. `failed`: the receiver failed or its circuit breaker is open, so that no further
 * progress of the job should be sent to it.
 */
export type ProgressOutcome = 'sent' | 'failed'

/** Sends progress for one account. The counts of requests in progress are in memory. */
export function openProgress(env: Env, sql: SqlStorage, { timeoutMs, breakerMs }: WebhookSettings) {
  const running = new Map<string, number>()
  const add = (host: string, change: number) => {
    const count = (running.get(host) ?? 0) + change
    if (count === 0) running.delete(host)
    else running.set(host, count)
  }

  async function post(event: WebhookEvent, url: string, host: string): Promise<ProgressOutcome> {
    await ensureKey(sql, DEFAULT_ENDPOINT, 'hmac')
    const keys = selectLiveKeys(sql, DEFAULT_ENDPOINT)
    const taken = { event, endpoint: DEFAULT_ENDPOINT, receiver: host, host, lease: 0, url, keys }
    const answer = await postWebhook(env, taken, timeoutMs, new AbortController().signal)
    if (evaluate(answer, Date.now()).kind === 'delivered') {
      recordSuccess(sql, host)
      return 'sent'
    }
    saveReceiver(sql, host, host)
    recordFailure(sql, host, { breakerMs, pauseMs: 0 })
    return 'failed'
  }

  return async (event: WebhookEvent, url: string): Promise<ProgressOutcome> => {
    const host = hostOf(url)
    if (isPaused(sql, host)) return 'failed'
    if ((running.get(host) ?? 0) >= MAX_OF_HOST) return 'sent'
    add(host, 1)
    return post(event, url, host).finally(() => add(host, -1))
  }
}

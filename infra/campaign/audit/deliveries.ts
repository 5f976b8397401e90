// Waits for undelivered webhooks. After failures, a receiver's circuit breaker may stay open longer than any fixed wait, so the audit
// follows the worker's retry schedule.
import { setTimeout as sleep } from 'node:timers/promises'
import { LONGEST_OPEN_MS } from '../../../edge/webhooks/endpoints/breaker.ts'
import { callWorker, persistent } from '../../system/client.ts'
import type { Customer } from '../../system/system.ts'

const POLL_MS = 500

type JobList<Each> = { data: Each[] }

/** Time of the next delivery attempt to any of these customers, in Unix milliseconds; null if there are no pending deliveries. */
export async function fetchNextAttempt(url: string, customers: readonly Customer[]): Promise<number | null> {
  const read = async <Each>(path: string, key: string) =>
    (await callWorker<JobList<Each>>(persistent, `${url}${path}`, key)).data
  const readCustomerDeliveries = async ({ key }: Customer) => {
    const endpoints = await read<{ id: string }>('/v1/webhooks', key)
    const pending = endpoints.map(({ id }) =>
      read<{ next_attempt: string }>(`/v1/webhooks/${id}/deliveries?state=pending&limit=100`, key),
    )
    return (await Promise.all(pending)).flat().map(({ next_attempt }) => Date.parse(next_attempt))
  }
  const times = (await Promise.all(customers.map(readCustomerDeliveries))).flat()
  return times.length === 0 ? null : Math.min(...times)
}

/**
 * Repeats an audit of deliveries until it finds no problems. Continues after `deadline` (a time of performance.now) while deliveries are
 * pending, for at most the maximum open time of a circuit breaker. Returns the remaining problems.
 */
export async function pollDeliveries(
  deadline: number,
  problems: () => string[],
  nextAttempt: () => Promise<number | null>,
): Promise<string[]> {
  const last = deadline + LONGEST_OPEN_MS
  for (;;) {
    const left = problems()
    const now = performance.now()
    if (left.length === 0 || now >= last) return left
    const due = now > deadline ? await nextAttempt() : Date.now()
    if (due === null) return problems()
    await sleep(Math.min(Math.max(due - Date.now(), POLL_MS), last - now))
  }
}

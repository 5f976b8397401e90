// Publishes the event of a finished job to the account's endpoints and to the request's webhook URL.
import { objectOf } from '../platform/objects.ts'
import type { WebhookEvent } from '../webhooks/deliveries.ts'
import type { EventType } from '../webhooks/endpoints.ts'
import { costOf, type JobRecord } from './record.ts'

/** Longer messages are truncated, so that a payload stays below 20 kB. */
const MESSAGE_CHARACTERS = 500
const MAX_WARNINGS = 8

const truncate = <T extends { message: string }>(problem: T): T => ({
  ...problem,
  message: problem.message.slice(0, MESSAGE_CHARACTERS),
})
const unixSeconds = (milliseconds: number) => Math.floor(milliseconds / 1000)
const EVENT_OF_STATE: Partial<Record<JobRecord['state'], EventType>> = {
  succeeded: 'job.succeeded',
  failed: 'job.failed',
  canceled: 'job.canceled',
}

/** Returns the payload data of a job, without the prompt and image bytes. Each attempt replaces the images' storage keys with links. */
function dataOf(job: JobRecord) {
  const images = job.state === 'succeeded' ? job.images.toSorted((a, b) => a.image - b.image) : []
  return {
    id: job.id,
    name: job.name,
    object: 'job',
    state: job.state,
    created: unixSeconds(job.created),
    finished: job.finished === null ? null : unixSeconds(job.finished),
    attempt: job.attempt,
    size: `${job.request.width}x${job.request.height}`,
    images: images.map(({ receipt: _, ...image }) => image),
    warnings: job.warnings.slice(0, MAX_WARNINGS).map(truncate),
    timings: job.timings,
    error: job.error && truncate(job.error),
    price_microdollars: costOf(job),
  }
}

/** Returns the event of a finished job. Its id is derived from the job's id, so that publishing is idempotent. */
export function eventOf(job: JobRecord): WebhookEvent {
  const type = EVENT_OF_STATE[job.state]
  if (!type) throw new Error(`job ${job.id} is ${job.state}: there is nothing to announce yet`)
  const timestamp = new Date(job.finished ?? job.created).toISOString()
  const body = JSON.stringify({ type, timestamp, data: dataOf(job) })
  return { id: `evt_${job.id}`, type, body, origin: job.origin }
}

/** Publishes the event of a finished job. Idempotent, because the `webhook-id` is derived from the job. Throws if a retry is needed. */
export async function announce(env: Env, job: JobRecord): Promise<void> {
  await objectOf(env.WEBHOOK, job.account).publish(eventOf(job), job.webhook)
}

// What a final job tells the outside: one event to the account's endpoints and to the request's own webhook address.
import type { Env } from './env.ts'
import { costOf, type JobRecord } from './job-record.ts'
import { objectOf } from './objects.ts'
import type { WebhookEvent } from './webhook-deliveries.ts'
import type { EventType } from './webhook-endpoints.ts'

/** Longer messages are cut: a payload has less than 20 kB. */
const MESSAGE_CHARACTERS = 500
const MAX_WARNINGS = 8

const cut = <T extends { message: string }>(told: T): T => ({
  ...told,
  message: told.message.slice(0, MESSAGE_CHARACTERS),
})
const unixSeconds = (milliseconds: number) => Math.floor(milliseconds / 1000)
const EVENT_OF_STATE: Partial<Record<JobRecord['state'], EventType>> = {
  succeeded: 'job.succeeded',
  failed: 'job.failed',
  canceled: 'job.canceled',
}

/** The job as a webhook tells it: no prompt, no bytes. Each attempt puts links in the place of the images' keys. */
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
    warnings: job.warnings.slice(0, MAX_WARNINGS).map(cut),
    timings: job.timings,
    error: job.error && cut(job.error),
    price_microdollars: costOf(job),
  }
}

/** The event of a final job. Its id follows from the job's, so that whoever announces it twice says the same. */
export function eventOf(job: JobRecord): WebhookEvent {
  const type = EVENT_OF_STATE[job.state]
  if (!type) throw new Error(`job ${job.id} is ${job.state}: it has nothing to announce yet`)
  const timestamp = new Date(job.finished ?? job.created).toISOString()
  const body = JSON.stringify({ type, timestamp, data: dataOf(job) })
  return { id: `evt_${job.id}`, type, body, origin: job.origin }
}

/** An event that says nothing, to try an endpoint with. */
export function testEvent(origin: string): WebhookEvent {
  const [type, timestamp] = ['webhook.test' as const, new Date().toISOString()]
  const body = JSON.stringify({ type, timestamp, data: { object: 'test', message: 'This endpoint works.' } })
  return { id: `evt_test_${crypto.getRandomValues(new Uint8Array(12)).toHex()}`, type, body, origin }
}

/** Tells a final job to whoever listens. Repeats do no harm: the same job has the same `webhook-id`. Throws when it must be tried again. */
export async function announce(env: Env, job: JobRecord): Promise<void> {
  await objectOf(env.WEBHOOK, job.account).publish(eventOf(job), job.webhook)
}

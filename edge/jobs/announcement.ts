// Publishes the event of a finished job to the account's endpoints and to the request's webhook URL.

import { objectOf } from '../platform/durable-objects.ts'
import type { WebhookEvent } from '../webhooks/delivery/delivery.ts'
import type { EventType } from '../webhooks/endpoints/event-types.ts'
import { projectJob } from './projection.ts'
import type { JobRecord } from './record.ts'

/** Longer messages are truncated, so that a payload stays below 20 kB. */
const MESSAGE_CHARACTERS = 500
const MAX_WARNINGS = 8

const truncate = <T extends { message: string }>(problem: T): T => ({
  ...problem,
  message: problem.message.slice(0, MESSAGE_CHARACTERS),
})
const EVENT_OF_STATE: Partial<Record<JobRecord['state'], EventType>> = {
  succeeded: 'job.succeeded',
  failed: 'job.failed',
  canceled: 'job.canceled',
}

/** The payload data of a job, without the prompt and image bytes. Each attempt replaces the images' storage keys with links. */
function dataOf(job: JobRecord) {
  const { images, warnings, error, ...facts } = projectJob(job)
  return {
    ...facts,
    images: images.map(({ receipt: _, ...image }) => image),
    warnings: warnings.slice(0, MAX_WARNINGS).map(truncate),
    error: error && truncate(error),
  }
}

/** Returns the event of a finished job. Its id is derived from the job's id, so that publishing is idempotent. */
export function eventOf(job: JobRecord): WebhookEvent {
  const type = EVENT_OF_STATE[job.state]
  if (!type) throw new Error(`job ${job.id} is ${job.state}: there is nothing to announce yet`)
  const timestamp = new Date(job.finished ?? job.created).toISOString()
  const body = JSON.stringify({ type, timestamp, data: dataOf(job), ...(job.dialect && { dialect: job.dialect }) })
  return { id: `evt_${job.id}`, type, body, origin: job.origin }
}

/** The webhook event with the progress of a running job at entry `seq` of its log. Images are in the final event only. */
export function progressEventOf(job: JobRecord, seq: number): WebhookEvent {
  const data = { ...dataOf(job), progress: job.progress }
  const timestamp = new Date().toISOString()
  const body = JSON.stringify({
    ...{ type: 'job.progress', timestamp, data },
    ...(job.dialect && { dialect: job.dialect }),
  })
  return { id: `evt_${job.id}_${seq}`, type: 'job.progress', body, origin: job.origin }
}

/** Whether the request's webhook URL receives the final event. `output` selects that of a success, which has all images. */
const selectsEnd = ({ webhookEvents = ['completed'], state }: JobRecord) =>
  webhookEvents.includes('completed') || (webhookEvents.includes('output') && state === 'succeeded')

/** Publishes the event of a finished job. Idempotent, because the `webhook-id` is derived from the job. Throws if a retry is needed. */
export async function announce(env: Env, job: JobRecord): Promise<void> {
  await objectOf(env.WEBHOOK, job.account).publish(eventOf(job), selectsEnd(job) ? job.webhook : null)
}

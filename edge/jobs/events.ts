// A job's log as server-sent events. Each log entry always produces the same event, except for the expiration of links.

import { createResultUrlUntil } from '../results/results.ts'
import type { StoredImage } from '../results/stored-image.ts'
import type { JobLog } from './event-log.ts'
import { isFinal, type JobRecord, type LogEntry } from './record.ts'

/** The interval of comments that keep proxies from closing an idle connection. */
const PING_MS = 15_000

type PublicEvent = { type: string } & Record<string, unknown>

/** The signed link to an image of a job; null once the image is no longer available. */
export type LinkOf = (job: JobRecord, image: StoredImage) => Promise<string | null>

const HOUR_SECONDS = 3600
/** Signs links that end on a full hour, one to two hours from now, so that replays within an hour are equal. */
export const linkToHour =
  (env: Env): LinkOf =>
  (job, image) => {
    const until = (Math.ceil(Date.now() / 1000 / HOUR_SECONDS) + 1) * HOUR_SECONDS
    return createResultUrlUntil(env, job.origin, job.id, image, until)
  }

/** A log entry without internal details such as addresses and causes of faults. */
async function toPublicEvent(job: JobRecord, { event }: LogEntry, linkOf: LinkOf): Promise<PublicEvent> {
  switch (event.type) {
    case 'accepted':
      return { type: event.position > 0 ? 'queued' : 'starting', position: event.position }
    case 'started': {
      const { model, tier, package: digest, device, loras, controls } = event
      const additions = { ...(loras && { loras }), ...(controls && { controls }) }
      return { type: 'running', model, tier, package: digest, device, ...additions }
    }
    case 'stored': {
      const { key: _, receipt: __, ...image } = event.image
      return { type: 'image', ...image }
    }
    case 'lost':
      return { type: 'retrying', message: 'The GPU did not finish the job; it is tried again.' }
    case 'succeeded': {
      const images = event.stored.map(async (stored) => {
        const { key: _, ...image } = stored
        return { ...image, url: await linkOf(job, stored) }
      })
      return { type: 'succeeded', timings: event.timings, images: await Promise.all(images) }
    }
    case 'failed':
    case 'given_up':
      return { type: 'failed', error: job.error }
    default:
      return { ...event }
  }
}

/** One event of the stream. Its id, for `Last-Event-ID`, is the entry's number. */
async function formatServerSentEvent(job: JobRecord, entry: LogEntry, linkOf: LinkOf): Promise<string> {
  const { type, ...rest } = await toPublicEvent(job, entry, linkOf)
  const data = JSON.stringify({ type, job: job.id, attempt: entry.attempt, at: entry.at / 1000, ...rest })
  return `id: ${entry.seq}\nevent: ${type}\ndata: ${data}\n\n`
}

const utf8 = new TextEncoder()

/** Resolves to true at the log's next entry, or to false after `ms` milliseconds. */
export function waitForChange(log: Pick<JobLog, 'changed'>, ms: number): Promise<boolean> {
  const { promise: quiet, resolve } = Promise.withResolvers<boolean>()
  const timer = setTimeout(resolve, ms, false)
  const changed = log.changed().then(() => {
    clearTimeout(timer)
    return true
  })
  return Promise.race([changed, quiet])
}

/**
 * Streams the log after entry `after`, then new entries until the job has ended. `onClose` is called once, at the end or when the reader
 * disconnects.
 */
export function streamEvents(
  log: Pick<JobLog, 'after' | 'job' | 'changed'>,
  after: number,
  linkOf: LinkOf,
  onClose: () => void = () => {},
  pingMs = PING_MS,
): ReadableStream<Uint8Array> {
  let last = after
  return new ReadableStream({
    type: 'bytes',
    async pull(controller) {
      for (;;) {
        const entries = log.after(last)
        const job = log.job()
        if (entries.length > 0) {
          const events = await Promise.all(entries.map((each) => formatServerSentEvent(job, each, linkOf)))
          controller.enqueue(utf8.encode(events.join('')))
        }
        last = entries.at(-1)?.seq ?? last
        if (isFinal(job)) {
          onClose()
          return close(controller)
        }
        if (entries.length > 0) return
        if (!(await waitForChange(log, pingMs))) return controller.enqueue(utf8.encode(': ping\n\n'))
      }
    },
    cancel: onClose,
  })
}

function close(controller: ReadableByteStreamController): void {
  controller.close()
  // A pending BYOB read resolves only after a response to its request.
  controller.byobRequest?.respond(0)
}

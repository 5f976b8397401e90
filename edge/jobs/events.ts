// A job's log as server-sent events. Each log entry always gives the same event, so that a replay is exact.

import { resultPath } from '../results/results.ts'
import type { JobLog } from './event-log.ts'
import type { LogEntry } from './record.ts'
import { isFinal, type JobRecord } from './record.ts'

/** The interval of comments that keep proxies from closing an idle connection. */
const PING_MS = 15_000

type PublicEvent = { type: string } & Record<string, unknown>

/** A log entry without internal details such as addresses and causes of faults. */
export function publicEvent(job: JobRecord, { event }: LogEntry): PublicEvent {
  switch (event.type) {
    case 'accepted':
      return { type: event.position > 0 ? 'queued' : 'starting', position: event.position }
    case 'started': {
      const { model, tier, package: digest, device } = event
      return { type: 'running', model, tier, package: digest, device }
    }
    case 'stored': {
      const { key: _, receipt: __, ...image } = event.image
      return { type: 'image', ...image }
    }
    case 'lost':
      return { type: 'retrying', message: 'The GPU did not finish the job; it is tried again.' }
    case 'succeeded': {
      const images = event.stored.map(({ key, ...image }) => ({
        ...image,
        url: `${job.origin}${resultPath(job.id, { key })}`,
      }))
      return { type: 'succeeded', timings: event.timings, images }
    }
    case 'failed':
    case 'given_up':
      return { type: 'failed', error: job.error }
    default:
      return { ...event }
  }
}

/** One event of the stream. Its id, for `Last-Event-ID`, is the entry's number. */
export function serverSentEvent(job: JobRecord, entry: LogEntry): string {
  const { type, ...rest } = publicEvent(job, entry)
  const data = JSON.stringify({ type, job: job.id, attempt: entry.attempt, at: entry.at / 1000, ...rest })
  return `id: ${entry.seq}\nevent: ${type}\ndata: ${data}\n\n`
}

const utf8 = new TextEncoder()

/** Resolves to true at the log's next entry, or to false after `ms` milliseconds. */
function changedWithin(log: Pick<JobLog, 'changed'>, ms: number): Promise<boolean> {
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
export function eventStream(
  log: Pick<JobLog, 'after' | 'job' | 'changed'>,
  after: number,
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
        if (entries.length > 0)
          controller.enqueue(utf8.encode(entries.map((each) => serverSentEvent(job, each)).join('')))
        last = entries.at(-1)?.seq ?? last
        if (isFinal(job)) {
          onClose()
          return close(controller)
        }
        if (entries.length > 0) return
        if (!(await changedWithin(log, pingMs))) return controller.enqueue(utf8.encode(': ping\n\n'))
      }
    },
    cancel: onClose,
  })
}

function close(controller: ReadableByteStreamController): void {
  controller.close()
  // A pending read into the reader's own buffer ends only when the buffer is returned.
  controller.byobRequest?.respond(0)
}

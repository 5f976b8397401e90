// The reply of `PUT /jobs/{id}`: JSON lines; a line with `bytes: n` is followed by n raw bytes.
import type { JobEvent } from '../contract.ts'
import { type Job, outcomeOf, waitForChange } from './job.ts'

const encoder = new TextEncoder()

/**
 * Streams a job's events from its start until its end, `accepted` first. Events are serialized on demand, so a slow reader delays neither
 * the job nor other readers. `onClose` is called once: at the end of the stream, or when the reader cancels it, which the HTTP server
 * does when the connection closes.
 */
export function streamJob(
  job: Job,
  accepted: JobEvent,
  heartbeatMs: number,
  onClose: () => void,
): ReadableStream<Uint8Array> {
  const parts = encodeChunks(job, accepted, heartbeatMs)
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { done, value } = await parts.next()
        if (!done) return controller.enqueue(value)
        onClose()
        controller.close()
      },
      cancel() {
        onClose()
        // Takes effect after the current wait, which lasts at most one heartbeat.
        void parts.return()
      },
    },
    { highWaterMark: 0 },
  )
}

async function* encodeChunks(job: Job, accepted: JobEvent, heartbeatMs: number): AsyncGenerator<Uint8Array, void> {
  yield encodeLine(accepted)
  for (let next = 0; ; ) {
    const entry = job.entries[next]
    if (entry) {
      yield encodeLine(entry.event)
      if (entry.data) yield entry.data
      next += 1
    } else {
      if (outcomeOf(job)) return
      if (!(await waitForChange(job, heartbeatMs))) yield encodeLine({ type: 'heartbeat' })
    }
  }
}

function encodeLine(event: JobEvent): Uint8Array {
  return encoder.encode(`${JSON.stringify(event)}\n`)
}

// The reply of `PUT /jobs/{id}`: JSON lines; a line with `bytes: n` is followed by n raw bytes.
import type { JobEvent } from './contract.ts'
import { changedWithin, type Job, outcome } from './job.ts'

const encoder = new TextEncoder()

/**
 * A job's events from the start and then as they happen, until the job ends; `accepted` comes first.
 * Bytes are made when the reader asks for them: one that is slow or gone holds back neither the job nor other readers.
 */
export function jobStream(job: Job, accepted: JobEvent, heartbeatMs: number): ReadableStream<Uint8Array> {
  return ReadableStream.from(chunks(job, accepted, heartbeatMs))
}

async function* chunks(job: Job, accepted: JobEvent, heartbeatMs: number): AsyncGenerator<Uint8Array> {
  yield line(accepted)
  for (let next = 0; ; ) {
    const entry = job.entries[next]
    if (entry) {
      yield line(entry.event)
      if (entry.data) yield entry.data
      next += 1
    } else {
      if (outcome(job)) return
      if (!(await changedWithin(job, heartbeatMs))) yield line({ type: 'heartbeat' })
    }
  }
}

function line(event: JobEvent): Uint8Array {
  return encoder.encode(`${JSON.stringify(event)}\n`)
}

// Submission of a job, its optional cancellation, and its outcome.
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { JobRequest } from '../../../gpu-fn/contract.ts'
import { readJobStream } from '../../system/job-stream.ts'
import { offerJob } from '../schedule/offer.ts'
import { computePauseMs } from '../schedule/outcome.ts'
import type { Cancellation } from './requests.ts'

/** Outcome of a job. `hung up`: the caller closed the connection before the job ended. */
export type JobOutcome =
  | { kind: 'succeeded'; file: Uint8Array }
  | { kind: 'canceled' | 'hung up' }
  | { kind: 'failed'; message: string }

/** Milliseconds from the acceptance of a job to its cancellation. */
export type Cancel = { by: Cancellation['by']; ms: number }

/** Timeout of a job, from submission. */
export const MAX_MS = 600_000

const createFailure = (message: string): JobOutcome => ({ kind: 'failed', message })

/** Submits the job to `url` and resolves with its outcome. Retries a refused job after its Retry-After. Never rejects. */
export async function submit(url: string, request: JobRequest, cancel: Cancel | null): Promise<JobOutcome> {
  const hangUp = new AbortController()
  const limit = AbortSignal.timeout(MAX_MS)
  const signal = AbortSignal.any([hangUp.signal, limit])
  try {
    for (;;) {
      const offer = await offerJob(url, request, signal)
      if ('accepted' in offer) return await follow(offer.accepted, cancel && { ...cancel, url, hangUp })
      if ('refusal' in offer) return createFailure(offer.refusal)
      await sleep(computePauseMs(offer.retryAfterMs))
    }
  } catch (error) {
    if (hangUp.signal.aborted) return { kind: 'hung up' }
    if (limit.aborted) return createFailure(`the job did not end within ${MAX_MS / 1000} s`)
    const { message, cause } = error as Error & { cause?: { code?: string } }
    return createFailure(cause?.code ? `${message}: ${cause.code}` : message)
  }
}

type ArmedCancel = Cancel & { url: string; hangUp: AbortController }

/** Reads the event stream of an accepted job. Throws if the connection breaks or the stream violates the contract. */
async function follow({ body }: Response, cancel: ArmedCancel | null): Promise<JobOutcome> {
  const canceling = cancel && startTimer(cancel)
  let file: Uint8Array | undefined
  try {
    for await (const { event, data } of readJobStream(body!)) {
      if (event.type === 'image') {
        file = data!
        if (createHash('sha256').update(file).digest('hex') !== event.sha256)
          return createFailure('an image does not match its SHA-256')
      } else if (event.type === 'failed') return createFailure(`${event.code}: ${event.message}`)
      else if (event.type === 'canceled')
        return canceling?.isDeleted() ? { kind: 'canceled' } : createFailure('canceled without a request')
      else if (event.type === 'succeeded')
        return file ? { kind: 'succeeded', file } : createFailure('the job has no image')
    }
    return createFailure('the stream ended before the job')
  } finally {
    await canceling?.stop()
  }
}

function startTimer({ by, ms, url, hangUp }: ArmedCancel) {
  let deletion: Promise<unknown> | undefined
  const timer = setTimeout(() => {
    if (by === 'hanging up') hangUp.abort()
    else deletion = fetch(url, { method: 'DELETE' }).then((reply) => reply.arrayBuffer())
    // A failed DELETE is detected through the outcome of the job.
    deletion?.catch(() => {})
  }, ms)
  return {
    isDeleted: () => deletion !== undefined,
    async stop() {
      clearTimeout(timer)
      await deletion?.catch(() => {})
    },
  }
}

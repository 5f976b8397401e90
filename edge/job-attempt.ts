// One attempt of a job: ask until a GPU accepts, follow its stream, write down what it says. It never rejects; the log tells how it went.
import { PROTOCOL_VERSION } from '#contract'
import { sleep } from './backoff.ts'
import { readCatalogue } from './catalogue.ts'
import type { Env } from './env.ts'
import { ask, backoffMs, follow, type GpuCall, GpuOverran, GpuRefused, GpuUnavailable } from './gpu.ts'
import { type Frame, StreamLost } from './gpu-stream.ts'
import { readGpuTimes } from './gpu-times.ts'
import type { JobLog } from './job-log.ts'
import { applyEvent, FAILED, isRetried, type JobRecord, type LoggedEvent, stepsSeen } from './job-record.ts'
import { log } from './log.ts'
import { receiptFor } from './receipts.ts'
import { storeImage } from './results.ts'

const NO_GPU = 'No GPU took the job in time. Nothing was charged; please try again in a minute.'

/** `patient`: stay until a GPU accepts, because a caller waits. Otherwise ask once: a Workflow sleeps at no price. */
type AttemptOptions = { n: number; patient: boolean; abort: AbortController }

/** What is asked of the GPU function for attempt n. */
export function gpuCall(env: Env, { id, request, decision }: JobRecord, n: number, abort: AbortController): GpuCall {
  return {
    ...readGpuTimes(env),
    endpoint: readCatalogue(env).endpoints[decision.endpoint]!,
    signingKey: env.GPU_SIGNING_KEY,
    job: id,
    request: { protocol: PROTOCOL_VERSION, attempt: n, ...request },
    abort,
  }
}

/** Runs attempt n of the job, or goes on with its wait for a GPU. */
export async function runAttempt(env: Env, jobLog: JobLog, { n, patient, abort }: AttemptOptions): Promise<void> {
  const { attempt, waiting } = jobLog.job()
  if (attempt !== n || !waiting) jobLog.begin(n)
  try {
    const call = gpuCall(env, jobLog.job(), n, abort)
    for (;;) {
      const answer = await ask(call, answerMs(jobLog.job(), call))
      if ('accepted' in answer) return await record(env, jobLog, call, answer.accepted)
      const waitMs = putOff(jobLog, n, answer.retryAfterMs, call.startMs)
      if (waitMs === null || !patient) return
      await sleep(waitMs, abort.signal)
    }
  } catch (cause) {
    broke(jobLog, n, cause)
  }
}

/** How long a GPU may take to answer: until the job's time for that is over, and at least as long as its stream may be silent. */
function answerMs({ waiting }: JobRecord, { startMs, silenceMs }: GpuCall): number {
  return Math.max(silenceMs, waiting ? waiting.since + startMs - Date.now() : startMs)
}

/** Notes that no GPU accepted yet: how long to wait before the next try, or null when another attempt took over. Throws GpuUnavailable when the time is over. */
function putOff(jobLog: JobLog, n: number, retryAfterMs: number, startMs: number): number | null {
  const { attempt, waiting } = jobLog.job()
  if (attempt !== n || !waiting) return null
  const waitMs = backoffMs(waiting.tries, retryAfterMs)
  if (Date.now() + waitMs > waiting.since + startMs)
    throw new GpuUnavailable(`not accepted within ${startMs} ms, asked ${waiting.tries + 1} times`)
  jobLog.update({ waiting: { ...waiting, tries: waiting.tries + 1, waitMs } })
  return waitMs
}

async function record(env: Env, jobLog: JobLog, call: GpuCall, accepted: ReadableStream<Uint8Array>): Promise<void> {
  const { attempt } = call.request
  for await (const frame of follow(call, accepted)) {
    const event = await kept(env, jobLog.job(), frame)
    if (frame.event.type === 'failed')
      log('error', 'the GPU function failed a job', { job: call.job, attempt, event: frame.event })
    jobLog.append(attempt, event)
    if (jobLog.job().attempt !== attempt) return
  }
}

/** An event as it is logged: an image's bytes go to R2 first, and success comes with the receipts. */
async function kept(env: Env, job: JobRecord, { event, data }: Frame): Promise<LoggedEvent> {
  switch (event.type) {
    case 'heartbeat':
      throw new Error('heartbeats end in gpu.ts')
    case 'image':
      return { type: 'stored', image: await storeImage(env, job, event, data!) }
    case 'preview': {
      const { image, step, content_type } = event
      return { type: 'preview', image, step, content_type, b64_json: data!.toBase64() }
    }
    case 'succeeded': {
      const stored = job.images.toSorted((a, b) => a.image - b.image)
      const done = applyEvent(job, { ...event, stored }, Date.now())
      const signed = stored.map(async (image) => ({ ...image, receipt: await receiptFor(env, done, image) }))
      return { ...event, stored: await Promise.all(signed) }
    }
    case 'failed':
      return isRetried(job, event) ? { type: 'lost', reason: `${event.code}: ${event.message}` } : event
    default:
      return event
  }
}

/** An attempt ended without its terminal event. */
function broke(jobLog: JobLog, n: number, cause: unknown): void {
  const job = jobLog.job()
  if (job.attempt !== n) return
  log('warn', 'an attempt broke', { job: job.id, attempt: n, cause })
  if (job.cancelRequested) jobLog.append(n, { type: 'canceled', steps_done: stepsSeen(job), timings: null })
  else if (cause instanceof GpuUnavailable)
    jobLog.append(n, { type: 'given_up', code: 'gpu_unavailable', message: NO_GPU, reason: cause.message })
  else if (cause instanceof GpuRefused || cause instanceof GpuOverran)
    jobLog.append(n, { type: 'given_up', code: 'generation_failed', message: FAILED, reason: cause.message })
  else jobLog.append(n, { type: 'lost', reason: cause instanceof StreamLost ? cause.message : String(cause) })
}

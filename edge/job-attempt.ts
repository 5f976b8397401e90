// One attempt of a job: ask until a GPU accepts, follow its stream, write down what it says. It never rejects; the log tells how it went.
import { PROTOCOL_VERSION } from '#contract'
import { sleep } from './backoff.ts'
import { endpointOf, orderOf, reportDown, reportUp } from './endpoints.ts'
import type { Env } from './env.ts'
import { ask, backoffMs, cancel, follow, type GpuCall, GpuOverran, GpuRefused, GpuUnavailable } from './gpu.ts'
import { type Frame, StreamLost } from './gpu-stream.ts'
import { readGpuTimes } from './gpu-times.ts'
import type { JobLog } from './job-log.ts'
import { applyEvent, FAILED, isRetried, type JobRecord, type LoggedEvent, stepsSeen } from './job-record.ts'
import { log } from './log.ts'
import { receiptFor } from './receipts.ts'
import { storeImage } from './results.ts'
import { tellWarmth } from './warm.ts'

const NO_GPU = 'No GPU took the job in time. Nothing was charged; please try again in a minute.'

/** `patient`: stay until a GPU accepts, because a caller waits. Otherwise ask once: a Workflow sleeps at no price. */
type AttemptOptions = { n: number; patient: boolean; abort: AbortController }

/** What is asked of the GPU function for attempt n; of the endpoint that accepted it, unless another is named. */
export function gpuCall(env: Env, job: JobRecord, n: number, abort: AbortController, endpoint?: string): GpuCall {
  const { id, request, decision } = job
  return {
    ...readGpuTimes(env),
    endpoint: endpointOf(env, endpoint ?? job.endpoint ?? decision.endpoint),
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
    for (;;) {
      const answer = await askEndpoints(env, jobLog, n, abort)
      if ('accepted' in answer) return await record(env, jobLog, answer.call, answer.accepted)
      const waitMs = putOff(jobLog, n, answer.retryAfterMs, readGpuTimes(env).startMs)
      if (waitMs === null || !patient) return
      await sleep(waitMs, abort.signal)
    }
  } catch (cause) {
    broke(jobLog, n, cause)
  }
}

type Round = { accepted: ReadableStream<Uint8Array>; call: GpuCall } | { retryAfterMs: number }

/**
 * Asks the job's endpoints, one after another, until one accepts: those after the first only when it is down, silent, or has put the job off
 * for the time after which that is hedged. Throws when none can take it.
 */
async function askEndpoints(env: Env, jobLog: JobLog, n: number, abort: AbortController): Promise<Round> {
  const { decision, waiting } = jobLog.job()
  // One that was told to drop this attempt would tell of nothing but that.
  const names = orderOf([decision.endpoint, ...(decision.spares ?? [])], n).filter(
    (name) => !waiting?.dropped?.includes(name),
  )
  const refusals: GpuRefused[] = []
  let retryAfterMs = Number.POSITIVE_INFINITY
  for (const [k, name] of names.entries()) {
    const call = gpuCall(env, jobLog.job(), n, abort, name)
    const isLast = k === names.length - 1
    const answer = await ask(call, isLast ? answerMs(jobLog.job(), call) : call.hedgeMs)
    if ('accepted' in answer) {
      reportUp(name)
      jobLog.update({ endpoint: name })
      await tellWarmth(env, name, 'ready')
      return { accepted: answer.accepted, call }
    }
    const isDown = 'unanswered' in answer || answer.down
    if (!isDown) await tellWarmth(env, name, 'busy' in answer && answer.busy ? 'ready' : 'starting')
    if (isDown) reportDown(name)
    // It may have taken the job and not told: two must not run it.
    if ('unanswered' in answer && !isLast) drop(jobLog, call)
    if ('unanswered' in answer && isLast) throw new GpuUnavailable('no answer in time')
    if ('refused' in answer) refusals.push(answer.refused!)
    if ('retryAfterMs' in answer && !('refused' in answer)) retryAfterMs = Math.min(retryAfterMs, answer.retryAfterMs)
    const hedged = waiting !== null && Date.now() - waiting.since >= call.hedgeMs
    if (!isDown && !hedged) break
  }
  if (refusals.length === names.length) throw refusals[0]
  return { retryAfterMs: Number.isFinite(retryAfterMs) ? retryAfterMs : 0 }
}

/** Has an endpoint drop the attempt that it may have taken. Written down first, so that it is not asked again whatever ends here. */
function drop(jobLog: JobLog, call: GpuCall): void {
  const { waiting } = jobLog.job()
  const dropped = [...(waiting?.dropped ?? []), call.endpoint.name]
  if (waiting) jobLog.update({ waiting: { ...waiting, dropped } })
  void cancel(call)
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

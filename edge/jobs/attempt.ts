// One attempt of a job: waits for a GPU to accept it, then copies the GPU's stream to the job's log. Errors end up in the log, not in rejections.
import { type JobInput, PROTOCOL_VERSION } from '#contract'
import type { GpuTimes } from '../config/gpu.ts'
import { configOf } from '../config.ts'
import {
  cancel,
  computeBackoffMs,
  type GpuCall,
  GpuRefused,
  GpuTimeLimitExceeded,
  GpuTooSlow,
  GpuUnavailable,
  InputsLost,
  offerJob,
  readEvents,
} from '../gpu/client.ts'
import { endpointOf } from '../gpu/endpoints.ts'
import { orderEndpoints, reportHealth } from '../gpu/health.ts'
import type { Frame } from '../gpu/stream.ts'
import { withSpan } from '../gpu/trace.ts'
import { addJitter } from '../platform/backoff.ts'
import { log } from '../platform/log.ts'
import { openInputs } from '../results/inputs.ts'
import { createReceipt } from '../results/receipts.ts'
import { storeImage } from '../results/results.ts'
import type { JobLog } from './event-log.ts'
import {
  applyEvent,
  countSteps,
  FAILED,
  isFinal,
  isOnLastStep,
  isRetried,
  type JobRecord,
  type LoggedEvent,
  MAX_FAULTS,
} from './record.ts'

const NO_GPU = 'No GPU accepted the job in time. Nothing was charged; please try again in a minute.'

/** `onLastStep` is called, at least once, when the attempt reaches its last step. */
type AttemptOptions = { n: number; abort: AbortController; onLastStep: () => void }

/** The pause in milliseconds after a lost attempt, for the GPU to recover. Zero after the last attempt. */
export function computePauseAfterLossMs({ faults }: JobRecord, { retryMs }: GpuTimes): number {
  return faults < MAX_FAULTS ? Math.round(addJitter(retryMs * 4 ** Math.max(0, faults - 1))) : 0
}

function createGpuCall(env: Env, job: JobRecord, endpoint: string, n: number, abort = new AbortController()): GpuCall {
  return {
    ...configOf(env).gpuTimes,
    endpoint: endpointOf(env, endpoint),
    signingKey: configOf(env).gpuSigningKey,
    job: job.id,
    request: { protocol: PROTOCOL_VERSION, attempt: n, ...job.request },
    ...(job.request.inputs && { openFiles: filesOf(env, job, job.request.inputs) }),
    terms: { account: job.account, interactive: job.decision.route === 'turbo', deadline: job.deadline ?? null },
    abort,
  }
}

/** Opens the input files of a job for one request. Throws InputsLost if they are gone. */
const filesOf = (env: Env, job: JobRecord, inputs: readonly JobInput[]) => async () => {
  const files = await openInputs(env, job, inputs)
  if (!files) throw new InputsLost(`the inputs of ${job.id} are gone`)
  return files
}

const endpointsOf = ({ decision: { endpoint, fallbacks = [] } }: JobRecord) => [endpoint, ...fallbacks]

/**
 * Requests cancellation of the current attempt on the endpoint that accepted it, or on all endpoints of the job before an
 * acceptance. Resolves to whether an endpoint confirms the cancellation.
 */
export async function cancelOnGpu(env: Env, job: JobRecord): Promise<boolean> {
  if (job.attempt === 0) return false
  const names = job.endpoint === null ? endpointsOf(job) : [job.endpoint]
  const confirmed = await Promise.all(names.map((name) => cancel(createGpuCall(env, job, name, job.attempt))))
  return confirmed.includes(true)
}

/** Cancels the last run of a job on the endpoint that accepted it, without waiting for the answer. */
function cancelRun(env: Env, job: JobRecord): void {
  if (job.run) void cancel(createGpuCall(env, job, job.run.endpoint, job.run.attempt))
}

/** Runs attempt n of the job, or repeats its search for a GPU. */
export async function runAttempt(env: Env, jobLog: JobLog, { n, abort, onLastStep }: AttemptOptions): Promise<void> {
  const before = jobLog.job()
  if (before.attempt !== n || !before.waiting) jobLog.begin(n)
  try {
    const answer = await offerToEndpoints(env, jobLog, n, abort)
    if (!('accepted' in answer)) return postpone(jobLog, answer.retryAfterMs, configOf(env).gpuTimes.startMs)
    cancelRun(env, before)
    await record(env, jobLog, answer, onLastStep)
  } catch (cause) {
    giveUp(env, jobLog, n, cause)
  }
}

type AcceptedCall = { accepted: ReadableStream<Uint8Array>; call: GpuCall }
type Round = AcceptedCall | { retryAfterMs: number }

/**
 * Offers the job to its endpoints in order until one accepts. The next endpoint is tried when the current one is down or does not answer, or
 * when the job has waited for the failover time. Throws if no endpoint can accept the job.
 */
async function offerToEndpoints(env: Env, jobLog: JobLog, n: number, abort: AbortController): Promise<Round> {
  const job = jobLog.job()
  const { waiting } = job
  // Skips an endpoint with a cancellation of this attempt, because it would report only the cancellation.
  const names = orderEndpoints(endpointsOf(job), n).filter((name) => !waiting?.dropped?.includes(name))
  const refusals: (GpuRefused | GpuTooSlow)[] = []
  let retryAfterMs = Number.POSITIVE_INFINITY
  for (const [k, name] of names.entries()) {
    const call = createGpuCall(env, job, name, n, abort)
    const isLast = k === names.length - 1
    const answer = await offerJob(call, isLast ? answerMs(jobLog.job(), call) : call.failoverMs)
    if ('accepted' in answer) {
      jobLog.update({ endpoint: name, run: { endpoint: name, attempt: n } })
      void reportHealth(env, name, 'ready')
      return { accepted: answer.accepted, call }
    }
    const isDown = 'unanswered' in answer || answer.down
    const isBusy = 'busy' in answer && answer.busy
    void reportHealth(env, name, isDown ? 'down' : isBusy ? 'ready' : 'starting')
    // The endpoint may have accepted the job although its reply was lost, and only one endpoint may run a job.
    if ('unanswered' in answer) drop(jobLog, call)
    if ('unanswered' in answer && isLast) throw new GpuUnavailable('no answer in time')
    if ('refused' in answer) refusals.push(answer.refused!)
    if ('retryAfterMs' in answer && !('refused' in answer)) retryAfterMs = Math.min(retryAfterMs, answer.retryAfterMs)
    const isOverdue = waiting !== null && Date.now() - waiting.since >= call.failoverMs
    // Another endpoint may be fast enough.
    if (!isDown && !isOverdue && !('refused' in answer)) break
  }
  if (refusals.length === names.length) throw refusals[0]
  return { retryAfterMs: Number.isFinite(retryAfterMs) ? retryAfterMs : 0 }
}

/** Cancels the attempt on an endpoint that may have accepted it. The log entry precedes it, so that no reset offers the job to the endpoint again. */
function drop(jobLog: JobLog, call: GpuCall): void {
  const { waiting } = jobLog.job()
  const dropped = [...(waiting?.dropped ?? []), call.endpoint.name]
  if (waiting) jobLog.update({ waiting: { ...waiting, dropped } })
  void cancel(call)
}

/** The time limit for a GPU's answer: the rest of the job's start time, but at least the longest silence allowed in a stream. */
function answerMs({ waiting }: JobRecord, { startMs, silenceMs }: GpuCall): number {
  return Math.max(silenceMs, waiting ? waiting.since + startMs - Date.now() : startMs)
}

/** Schedules another search for a GPU. Throws GpuUnavailable after the job's start time. */
function postpone(jobLog: JobLog, retryAfterMs: number, startMs: number): void {
  const { waiting } = jobLog.job()
  if (!waiting) return
  const waitMs = computeBackoffMs(waiting.tries, retryAfterMs)
  if (Date.now() + waitMs > waiting.since + startMs)
    throw new GpuUnavailable(`not accepted within ${startMs} ms, asked ${waiting.tries + 1} times`)
  jobLog.update({ waiting: { ...waiting, tries: waiting.tries + 1 }, nextAt: Date.now() + waitMs })
}

async function record(
  env: Env,
  jobLog: JobLog,
  { call, accepted }: AcceptedCall,
  onLastStep: () => void,
): Promise<void> {
  const { attempt } = call.request
  for await (const frame of readEvents(call, accepted)) {
    const event = await createLogEvent(env, jobLog.job(), frame)
    if (frame.event.type === 'failed')
      log('error', 'the GPU function failed a job', { job: call.job, attempt, event: frame.event })
    const job = jobLog.append(attempt, event)
    if (job.attempt !== attempt) return
    if (isOnLastStep(job)) onLastStep()
  }
}

const noImage = { type: 'given_up', code: 'generation_failed', message: FAILED } as const

/** The log entry of an event. Image bytes are stored in R2 first; a success includes the receipts. */
async function createLogEvent(env: Env, job: JobRecord, { event, data }: Frame): Promise<LoggedEvent> {
  switch (event.type) {
    case 'heartbeat':
      throw new Error('heartbeats are not logged')
    case 'preview': {
      const { image, step, content_type } = event
      return { type: 'preview', image, step, content_type, b64_json: data!.toBase64() }
    }
    case 'image':
      return { type: 'stored', image: await withSpan(env, job.id, 'store', () => storeImage(env, job, event, data!)) }
    case 'succeeded': {
      const stored = job.images.toSorted((a, b) => a.image - b.image)
      const done = applyEvent(job, { ...event, stored }, Date.now())
      const signed = stored.map(async (image) => ({ ...image, receipt: await createReceipt(env, done, image) }))
      return { ...event, stored: await Promise.all(signed) }
    }
    case 'failed':
      return isRetried(job, event) ? { type: 'lost', reason: `${event.code}: ${event.message}` } : event
    case 'canceled': {
      if (job.cancelRequested) return event
      const reason = 'the GPU function canceled the attempt without a request'
      return isRetried(job, event) ? { type: 'lost', reason } : { ...noImage, reason }
    }
    default:
      return event
  }
}

/** Logs the end of an attempt without a terminal event, and cancels it on the GPU unless the next attempt may resume it. */
function giveUp(env: Env, jobLog: JobLog, n: number, cause: unknown): void {
  const job = jobLog.job()
  if (job.attempt !== n) return
  log('warn', 'an attempt broke', { job: job.id, attempt: n, cause })
  const reason = cause instanceof Error ? cause.message : String(cause)
  if (job.cancelRequested) jobLog.append(n, { type: 'canceled', steps_done: countSteps(job), timings: null })
  else if (cause instanceof GpuUnavailable)
    jobLog.append(n, { type: 'given_up', code: 'gpu_unavailable', message: NO_GPU, reason })
  else if (cause instanceof GpuTooSlow)
    jobLog.append(n, { type: 'given_up', code: 'max_latency_exceeded', message: cause.message, reason })
  else if (cause instanceof GpuRefused || cause instanceof GpuTimeLimitExceeded || cause instanceof InputsLost)
    jobLog.append(n, { ...noImage, reason })
  else jobLog.append(n, { type: 'lost', reason })
  const ended = jobLog.job()
  if (isFinal(ended) || ended.faults >= MAX_FAULTS) cancelRun(env, ended)
}

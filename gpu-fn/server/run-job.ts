// Runs one job on the engine and appends its events to the job's log.
import { createHash } from 'node:crypto'
import type { Logger } from 'pino'
import type { JobEvent, JobRequest, Timings } from '../contract.ts'
import type { Engine, Model } from '../engine/engine.ts'
import { JobError, jobFault } from '../engine/job-error.ts'
import type { PipelineEvent } from '../pipeline/events.ts'
import { type DecodedInput, decodeInput, InputError } from '../pipeline/input-image.ts'
import { append, type Job } from './job.ts'

/** Limit on warnings, which quote the prompt: lines of the stream have a maximum length. */
const WARNING_CHARACTERS = 2_000

type Progress = { timings: Timings; stepsDone: number; images: number }

/**
 * Runs the job to its end. Never rejects: the job's log ends with `succeeded`, `failed` or `canceled`. `fault`: the service failed, also in a
 * canceled job; the error is logged.
 */
export async function runJob(engine: Engine, job: Job, log: Logger): Promise<{ fault: boolean }> {
  const progress = { timings: emptyTimings(job), stepsDone: 0, images: 0 }
  const { signal } = job.cancellation
  let fault = false
  try {
    await generate(engine, job, progress)
    append(job, { type: 'succeeded', images: progress.images, timings: close(job, progress) })
  } catch (thrown) {
    const { code, message, cause } = thrown instanceof JobError ? thrown : jobFault('internal', thrown)
    fault = cause !== undefined && cause !== signal.reason
    if (fault) log.error({ err: cause, code }, 'job failed')
    append(job, signal.aborted ? canceled(job, progress) : { type: 'failed', code, message })
  }
  log.info({ outcome: job.entries.at(-1)?.event }, 'job ended')
  return { fault }
}

/** The final event of a job that was canceled before its run or between two steps. */
export function canceled(
  job: Job,
  progress: Progress = { timings: emptyTimings(job), stepsDone: 0, images: 0 },
): JobEvent {
  return { type: 'canceled', steps_done: progress.stepsDone, timings: close(job, progress) }
}

async function generate(engine: Engine, job: Job, progress: Progress): Promise<void> {
  const { request, cancellation } = job
  const { signal } = cancellation
  const model = chooseModel(engine.models, request)
  checkSize(model, request)
  const input = request.inputs && (await openInput(model, job))
  signal.throwIfAborted()
  const { device, seconds } = await engine.load(model, request)
  progress.timings.load = seconds
  // A job canceled during the load has not started.
  signal.throwIfAborted()
  append(job, { type: 'started', model: model.model, tier: model.tier, package: model.package, device })
  for (const message of input?.warnings ?? []) append(job, { type: 'warning', code: 'image_adjusted', message })
  for await (const event of engine.run(model, request, signal, input)) record(job, progress, event)
}

/** Decodes the job's input files. Throws JobError `invalid_request`. */
async function openInput({ model, inputImage }: Model, { files, request }: Job): Promise<DecodedInput> {
  if (!inputImage)
    throw new JobError(
      'invalid_request',
      `${model} takes no input image on this server: its package has no VAE encoder; omit the image, or compile the checkpoint again`,
    )
  try {
    return await decodeInput(files, request)
  } catch (error) {
    throw error instanceof InputError ? new JobError('invalid_request', error.message) : error
  }
}

function record(job: Job, progress: Progress, event: PipelineEvent): void {
  switch (event.type) {
    case 'warning':
      append(job, { ...event, message: event.message.slice(0, WARNING_CHARACTERS) })
      break
    case 'encoded':
      progress.timings.encode = event.seconds
      break
    case 'step':
      progress.stepsDone += 1
      append(job, { type: 'step', image: event.image, step: event.step, steps: event.steps })
      break
    case 'preview': {
      const { data, ...preview } = event
      append(job, { ...preview, bytes: data.byteLength }, data)
      break
    }
    case 'image': {
      progress.images += 1
      const { data, ...image } = event
      const sha256 = createHash('sha256').update(data).digest('hex')
      append(job, { ...image, sha256, bytes: data.byteLength }, data)
      break
    }
    case 'finished':
      Object.assign(progress.timings, event.timings)
  }
}

function chooseModel(models: readonly Model[], { model, tier }: JobRequest): Model {
  const found = models.find((candidate) => candidate.model === model && candidate.tier === tier)
  if (found) return found
  const offered = models.map((candidate) => `${candidate.model}:${candidate.tier}`).join(', ')
  throw new JobError(
    'model_not_available',
    `model "${model}" in tier "${tier}" is not on this server; it has ${offered}`,
  )
}

function checkSize({ model, side }: Model, request: JobRequest): void {
  for (const name of ['width', 'height'] as const) {
    const pixels = request[name]
    if (pixels > side.max || pixels % side.multipleOf !== 0)
      throw new JobError(
        'invalid_request',
        `${name} was ${pixels}; ${model} takes multiples of ${side.multipleOf} up to ${side.max}`,
      )
  }
}

function emptyTimings(job: Job): Timings {
  return { queue: secondsSince(job.acceptedAt), load: 0, encode: 0, denoise: 0, decode: 0, total: 0 }
}

/** Completes the timings. In an unfinished job, the time after the encoders counts as denoising. */
function close(job: Job, { timings, stepsDone }: Progress): Timings {
  const total = secondsSince(job.acceptedAt)
  const { queue, load, encode, decode } = timings
  const denoise =
    timings.denoise === 0 && stepsDone > 0 ? Math.max(0, total - queue - load - encode - decode) : timings.denoise
  const rounded = Object.entries({ ...timings, denoise, total }).map(([name, value]) => [name, toMilliseconds(value)])
  return Object.fromEntries(rounded) as Timings
}

/** Seconds to three places. */
function toMilliseconds(seconds: number): number {
  return Math.round(seconds * 1000) / 1000
}

function secondsSince(start: number): number {
  return (performance.now() - start) / 1000
}

// Runs one job on the engine, turn by turn, and appends its events to the job's log.
import { createHash } from 'node:crypto'
import type { Logger } from 'pino'
import type { JobEvent, JobRequest, Timings } from '../contract.ts'
import type { Engine, Model, RunOptions } from '../engine/engine.ts'
import { createJobFault, JobError } from '../engine/job-error.ts'
import { describeUnknown } from '../engine/package-engine.ts'
import type { PipelineEvent } from '../pipeline/events.ts'
import { decodeControl, decodeInput, InputError } from '../pipeline/input/input-image.ts'
import { describeWeightProblem } from '../pipeline/prompt/prompt.ts'
import { append, computeWaitedMs, type Job } from './job.ts'
import type { Load } from './observer.ts'

/** Limit on warnings, which quote the prompt: lines of the stream have a maximum length. */
const WARNING_CHARACTERS = 2_000

type Generation = { job: Job; progress: Progress; log: Logger }
type Progress = { timings: Timings; stepsDone: number; images: number }

/**
 * The phase completed in a turn. `occupied`: none, because models of unfinished runs occupy the required memory. `repeat`: none, because the
 * run was out of memory and restarts.
 */
export type Turn = {
  phase: 'load' | 'encode' | 'step' | 'decode' | 'file' | 'occupied' | 'repeat'
  /** Whether the next turn is a step that may share a run of the denoiser with those of other jobs. */
  beforeStep?: boolean
  /** Zero-based index of the step, including steps skipped by an input image. Only for the phase `step`. */
  step?: number
  /** Present for the phase `load`. */
  load?: Load
  /** Whether alternation with other jobs reloads or changes weights: networks take turns on the device, or the job has additions. */
  inTurns?: boolean
}

/**
 * Runs the job to completion and yields after each turn; between turns, other jobs may have the device. The turn after `decode` needs the
 * host only. Never throws: the job's log ends with `succeeded`, `failed` or `canceled`. `fault`: the service failed, even in a canceled
 * job; the error is logged.
 */
export async function* runJob(engine: Engine, job: Job, log: Logger): AsyncGenerator<Turn, { fault: boolean }> {
  const progress = { timings: emptyTimings(), stepsDone: 0, images: 0 }
  const { signal } = job.cancellation
  let fault = false
  try {
    yield* generate(engine, { job, progress, log })
    append(job, { type: 'succeeded', images: progress.images, timings: close(job, progress) })
  } catch (thrown) {
    const { code, message, cause } = thrown instanceof JobError ? thrown : createJobFault('internal', thrown)
    fault = cause !== undefined && cause !== signal.reason
    if (fault) log.error({ err: cause, code }, 'job failed')
    append(job, signal.aborted ? createCanceledEvent(job, progress) : { type: 'failed', code, message })
  }
  log.info(summaryOf(job), 'job ended')
  return { fault }
}

/** One line of the log for each job. It has no prompt. */
function summaryOf({ request, entries, trace, acceptedAt, parallel }: Job) {
  const { model, tier, width, height, steps, count, guidance_scale, schedule } = request
  const size = { width, height, steps, count, guidance_scale }
  const turns = { tenant: schedule?.tenant, interactive: schedule?.interactive }
  return {
    outcome: entries.at(-1)?.event,
    model,
    tier,
    ...size,
    ...turns,
    ...(parallel && { parallel }),
    trace: trace?.traceId,
    ms: Math.round(performance.now() - acceptedAt),
  }
}

/** The final event of a job that was canceled before its run or between two steps. */
export function createCanceledEvent(
  job: Job,
  progress: Progress = { timings: emptyTimings(), stepsDone: 0, images: 0 },
): JobEvent {
  return { type: 'canceled', steps_done: progress.stepsDone, timings: close(job, progress) }
}

async function* generate(engine: Engine, { job, progress, log }: Generation): AsyncGenerator<Turn> {
  const { request, cancellation } = job
  const { signal } = cancellation
  const model = chooseModel(engine.models, request)
  checkSize(model, request)
  checkSkippedLayers(model, request)
  checkPromptWeights(request)
  withPackages('lora', engine.loras, request.loras ?? [])
  withPackages('controlnet', engine.controlnets, request.controls ?? [])
  const { warnings, ...images } = await openImages(model, job)
  signal.throwIfAborted()
  let loaded = await engine.load(model, request)
  while (loaded.occupied) {
    yield { phase: 'occupied' }
    signal.throwIfAborted()
    loaded = await engine.load(model, request)
  }
  const { seconds, devices = 1 } = loaded
  const device = job.parallel && devices > 1 ? `${devices} x ${loaded.device}` : loaded.device
  // A change of adapters or of the ControlNet takes as long as several steps, so that a job with one is not preempted either.
  const inTurns = loaded.inTurns === true || request.loras !== undefined || request.controls !== undefined
  progress.timings.load = seconds
  // A job canceled during the load has not started.
  signal.throwIfAborted()
  const additions = {
    ...(request.loras && { loras: withPackages('lora', engine.loras, request.loras) }),
    ...(request.controls && { controls: withPackages('controlnet', engine.controlnets, request.controls) }),
  }
  append(job, { type: 'started', model: model.model, tier: model.tier, package: model.package, device, ...additions })
  for (const message of warnings) append(job, { type: 'warning', code: 'image_adjusted', message })
  yield { phase: 'load', load: loaded, inTurns }
  const attempt = { job, progress, model, images, batched: loaded.batched ?? false }
  try {
    yield* runOnce(engine, { ...attempt, inTurns })
  } catch (error) {
    const isOutOfMemory = error instanceof JobError && error.code === 'out_of_memory'
    if (!isOutOfMemory || progress.images > 0 || signal.aborted) throw error
    log.warn({ err: error.cause }, 'a job ran out of memory and is repeated alone')
    Object.assign(progress, { stepsDone: 0 })
    // In a separate turn, because other jobs may still use the device in this one. The engine has already freed memory.
    yield { phase: 'repeat', inTurns: true }
    signal.throwIfAborted()
    yield* runOnce(engine, { ...attempt, inTurns: true })
  }
}

type JobImages = Pick<RunOptions, 'input' | 'control'>

/** Decodes the job's input files. Throws JobError `invalid_request`. */
async function openImages(
  { model, inputImage }: Model,
  { files, request }: Job,
): Promise<JobImages & { warnings: readonly string[] }> {
  if (!request.inputs) return { warnings: [] }
  if (!inputImage)
    throw new JobError(
      'invalid_request',
      `${model} takes no input image on this server: its package has no VAE encoder; omit the image, or compile the checkpoint again`,
    )
  try {
    const input = files.image && (await decodeInput(files, request))
    const control = files.control && (await decodeControl(files.control, request))
    const warnings = [input, control].flatMap((decoded) => decoded?.warnings ?? [])
    return { ...(input && { input }), ...(control && { control }), warnings }
  } catch (error) {
    throw error instanceof InputError ? new JobError('invalid_request', error.message) : error
  }
}

type Attempt = { job: Job; progress: Progress; model: Model; images: JobImages; inTurns: boolean; batched: boolean }

async function* runOnce(
  engine: Engine,
  { job, progress, model, images, inTurns, batched }: Attempt,
): AsyncGenerator<Turn> {
  const options = { ...images, parallel: job.parallel, batch: () => job.batch }
  for await (const event of engine.run(model, job.request, job.cancellation.signal, options)) {
    record(job, progress, event)
    // A reused step takes no device time.
    const phase = event.type === 'step' && event.reused ? undefined : PHASE[event.type]
    if (phase) yield { phase, inTurns, beforeStep: batched && precedesStep(event), ...stepOf(event, job.request) }
  }
}

/** Events that end a turn. */
const PHASE: Partial<Record<PipelineEvent['type'], Turn['phase']>> = {
  encoded: 'encode',
  step: 'step',
  decoded: 'decode',
  image: 'file',
}

const stepOf = (event: PipelineEvent, { steps }: JobRequest): Pick<Turn, 'step'> =>
  event.type === 'step' ? { step: steps - event.steps + event.step - 1 } : {}

const precedesStep = (event: PipelineEvent): boolean =>
  event.type === 'encoded' || (event.type === 'step' && event.step < event.steps)

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

/** The adapters or ControlNets of a request with the digests of their packages. Throws JobError for an unknown one. */
function withPackages<Choice extends { id: string }>(
  kind: 'lora' | 'controlnet',
  known: ReadonlyMap<string, { package: string }>,
  chosen: readonly Choice[],
): (Choice & { package: string })[] {
  return chosen.map((choice) => {
    const found = known.get(choice.id)
    if (!found) throw new JobError('invalid_request', describeUnknown(kind, choice.id))
    return { ...choice, package: found.package }
  })
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

/** Errors: invalid_request for blocks that the model does not have, or that neither the request nor the package states. */
function checkSkippedLayers({ model, blocks }: Model, { skip_layer_guidance: skip }: JobRequest): void {
  if (!skip) return
  const refuse = (problem: string) => new JobError('invalid_request', `skip_layer_guidance ${problem}`)
  if (!blocks) throw refuse(`needs a package of this version; ${model} must be compiled again`)
  const layers = skip.layers ?? blocks.skipped
  if (layers.length === 0)
    throw refuse(`has no layers, and ${model} has no published ones; list some of its ${blocks.count} blocks`)
  const missing = layers.find((layer) => layer >= blocks.count)
  if (missing !== undefined) throw refuse(`has layer ${missing}; the layers of ${model} are 0 to ${blocks.count - 1}`)
}

/** Errors: invalid_request. */
function checkPromptWeights({ prompt_weights, ...request }: JobRequest): void {
  if (!prompt_weights) return
  for (const name of ['prompt', 'prompt_2', 'prompt_3', 'negative_prompt'] as const) {
    const problem = describeWeightProblem(request[name] ?? '')
    if (problem) throw new JobError('invalid_request', `${name} ${problem}`)
  }
}

function emptyTimings(): Timings {
  return { queue: 0, load: 0, encode: 0, denoise: 0, decode: 0, total: 0 }
}

/** Completes the timings. In an unfinished job, the time after the encoders counts as denoising. */
function close(job: Job, { timings, stepsDone }: Progress): Timings {
  const total = computeSecondsSince(job.acceptedAt)
  const { load, encode, decode } = timings
  const queue = computeWaitedMs(job) / 1000
  const denoise =
    timings.denoise === 0 && stepsDone > 0 ? Math.max(0, total - queue - load - encode - decode) : timings.denoise
  const rounded = Object.entries({ ...timings, queue, denoise, total }).map(([name, value]) => [
    name,
    toMilliseconds(value),
  ])
  return Object.fromEntries(rounded) as Timings
}

/** Seconds to three places. */
function toMilliseconds(seconds: number): number {
  return Math.round(seconds * 1000) / 1000
}

function computeSecondsSince(start: number): number {
  return (performance.now() - start) / 1000
}

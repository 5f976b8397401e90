// Text, and optionally an input image, to image: tokenize, encode, condition; then noise, denoise, decode and encode the file for every image.
import type { JobRequest } from '../contract.ts'
import { CONTENT_TYPES, type Seed, seedOf } from '../contract.ts'
import type { NetworkName, Package } from '../manifest.ts'
import type { Tensor } from '../runtime/session.ts'
import { describeUnknown } from '../tokenizer/known-words.ts'
import { decodeLatent } from './decode.ts'
import { Conditions, condition, predictVelocity } from './denoise.ts'
import type { FinishedImage, PipelineEvent, Preview } from './events.ts'
import { encodeImage } from './image.ts'
import type { Pipeline } from './pipeline.ts'
import { readPosition } from './position.ts'
import { encodePreview, type PreviewFactors, withoutNoise } from './preview.ts'
import { assertFinite, encodePrompts, type NamedPrompt } from './prompt.ts'
import { createScheduler } from './schedulers/schedulers.ts'
import { createStarts, type InputImage, type Start } from './start.ts'

export type Txt2ImgRequest = Pick<
  JobRequest,
  | 'prompt'
  | 'prompt_2'
  | 'prompt_3'
  | 'negative_prompt'
  | 'width'
  | 'height'
  | 'steps'
  | 'guidance_scale'
  | 'seed'
  | 'count'
  | 'output_format'
  | 'output_quality'
  | 'text_convention'
  | 'max_sequence_length'
  | 'preview_steps'
  | 'prompt_metadata'
  | 'strength'
>

/**
 * Generates `count` images; image k starts from the noise of `seed + k`, or from `input` with that noise. Guidance runs only above a scale of 1. Yields after every step and
 * checks `signal` before the next; an aborted signal throws its reason. Throws `RangeError` for a size outside the model's range and
 * `BudgetError` for a size above the memory budget.
 */
export async function* txt2img(
  pipeline: Pipeline,
  request: Txt2ImgRequest,
  signal: AbortSignal,
  input?: InputImage,
): AsyncGenerator<PipelineEvent> {
  const timings = { encode: 0, denoise: 0, decode: 0 }
  const encodeClock = stopwatch()
  const { dims, start, starts, inputs, truncations } = await prepare(pipeline, request, signal, input)
  try {
    timings.encode = encodeClock()
    for (const message of truncations) yield { type: 'warning', code: 'prompt_truncated', message }
    const unknown = pipeline.words ? describeUnknown(request.prompt, pipeline.words) : null
    if (unknown) yield { type: 'warning', code: 'prompt_words_unknown', message: unknown }
    yield { type: 'encoded', seconds: timings.encode }
    const undecoded: Denoised[] = []
    for (let image = 0; image < request.count; image++) {
      const own = image === 0 ? start : await starts(image)
      undecoded.push(yield* denoiseImage(pipeline, request, { image, start: own, dims, inputs, timings, signal }))
      // If denoiser and decoder share the device's memory in turns, all images are denoised before the first is decoded.
      if (sharesMemory(pipeline) && image < request.count - 1) continue
      for (const each of undecoded.splice(0)) yield await decodeImage(pipeline, request, each, { timings, signal })
    }
    yield { type: 'finished', timings }
  } finally {
    inputs.conditions.release()
  }
}

type Timings = { encode: number; denoise: number; decode: number }
type Work = { timings: Timings; signal: AbortSignal }
type Latent = { data: Float32Array; dims: number[] }
type Denoised = { image: number; latent: Latent }
/** Inputs of the denoiser that all images and steps share. */
type StepInputs = { conditions: Conditions; position: Tensor | undefined }

async function prepare(pipeline: Pipeline, request: Txt2ImgRequest, signal: AbortSignal, input?: InputImage) {
  const { manifest } = pipeline.package
  const { dims, rows, columns } = latentShape(pipeline.package, request)
  const { batched } = pipeline
  signal.throwIfAborted()
  await pipeline.fit(request)
  const options = { maxTokens: request.max_sequence_length, batched, signal }
  const { timesteps, sigmas } = createScheduler(request.steps, manifest.scheduler)
  const starts = createStarts(pipeline, request, { dims, sigmas, input }, signal)
  const [{ prompts, truncations }, start] = await Promise.all([
    encodePrompts(pipeline.encoders, manifest.text, promptsOf(request), options),
    starts(0),
  ])
  signal.throwIfAborted()
  const position = await readPosition(pipeline.package, rows, columns)
  const conditions = new Conditions(timesteps, (part) =>
    condition(pipeline.conditioning, prompts, part, { batched, signal }),
  )
  await conditions.at(start.first)
  return { dims, start, starts, inputs: { conditions, position }, truncations }
}

/** Denoises image number `image` from its start, and adds to `timings`. */
async function* denoiseImage(
  { package: pkg, transformer }: Pipeline,
  request: Txt2ImgRequest,
  {
    image,
    start,
    dims,
    inputs,
    timings,
    signal,
  }: Work & { image: number; start: Start; dims: number[]; inputs: StepInputs },
): AsyncGenerator<PipelineEvent, Denoised> {
  const denoiseClock = stopwatch()
  const scheduler = createScheduler(request.steps, pkg.manifest.scheduler)
  const latent = { data: start.latent, dims }
  const steps = scheduler.timesteps.length - start.first
  const options = { guidanceScale: request.guidance_scale, position: inputs.position, signal }
  for (let step = 1; step <= steps; step++) {
    signal.throwIfAborted()
    const run = start.first + step - 1
    const { conditions, row } = await inputs.conditions.at(run)
    const velocity = await predictVelocity(transformer, latent, conditions, row, options)
    scheduler.step(velocity, run, latent.data)
    start.restore?.(latent.data, scheduler.sigmas[run + 1]!)
    yield { type: 'step', image, step, steps }
    const factors = previewFactors(pkg, request.preview_steps, step, steps)
    if (factors) {
      const data = withoutNoise(latent.data, velocity, scheduler.sigmas[run + 1]!)
      yield await renderPreview({ data, dims: latent.dims }, factors, image, step)
    }
  }
  assertFinite(latent.data, 'the denoised latent')
  timings.denoise += denoiseClock()
  return { image, latent }
}

async function decodeImage(
  { package: pkg, vaeDecoder, plan }: Pipeline,
  request: Txt2ImgRequest,
  { image, latent }: Denoised,
  { timings, signal }: Work,
): Promise<FinishedImage> {
  signal.throwIfAborted()
  const decodeClock = stopwatch()
  const pixels = await decodeLatent(vaeDecoder, latent, plan.tile, signal)
  const finished = await writeImage(pkg, request, pixels, image, seedOf(request.seed, image))
  timings.decode += decodeClock()
  return finished
}

const sharesMemory = ({ plan }: Pipeline) =>
  ['transformer', 'vae_decoder'].every((network) => plan.offloaded.includes(network as NetworkName))

/** Factors for a preview after this step; undefined if none is due. The last step has none, because the image itself follows. */
function previewFactors({ manifest }: Package, interval: number | undefined, step: number, steps: number) {
  const due = interval !== undefined && step % interval === 0 && step < steps
  return due ? manifest.latent.preview : undefined
}

async function renderPreview(latent: Latent, factors: PreviewFactors, image: number, step: number): Promise<Preview> {
  const [, , height, width] = latent.dims as [number, number, number, number]
  const data = await encodePreview(latent.data, { width, height }, factors)
  return { type: 'preview', image, step, width, height, content_type: CONTENT_TYPES.jpeg, data }
}

/** The prompts of a batch: with guidance, the negative prompt first, as in diffusers. */
function promptsOf({ prompt, prompt_2, prompt_3, negative_prompt, guidance_scale }: Txt2ImgRequest): NamedPrompt[] {
  const positive = { name: 'prompt', text: prompt, own: { prompt_2, prompt_3 } }
  return guidance_scale > 1 ? [{ name: 'negative prompt', text: negative_prompt }, positive] : [positive]
}

/** Dims of a latent [1, C, h, w] and its number of patches. */
function latentShape({ manifest: { latent, position } }: Package, { width, height }: Txt2ImgRequest) {
  const patch = latent.downsample * latent.patch_size
  for (const [name, pixels] of Object.entries({ width, height })) {
    if (pixels < patch || pixels % patch !== 0 || pixels / patch > position.max) {
      throw new RangeError(
        `${name} is ${pixels}; this model supports multiples of ${patch} up to ${patch * position.max}`,
      )
    }
  }
  const dims = [1, latent.channels, height / latent.downsample, width / latent.downsample]
  return { dims, rows: height / patch, columns: width / patch }
}

async function writeImage(
  { manifest, digest }: Package,
  request: Txt2ImgRequest,
  pixels: Uint8Array,
  image: number,
  seed: Seed,
): Promise<FinishedImage> {
  const { prompt, negative_prompt, steps, guidance_scale, width, height, text_convention, strength } = request
  const { prompt_2, prompt_3, max_sequence_length, prompt_metadata } = request
  const prompts = { prompt, negative_prompt, ...(prompt_2 && { prompt_2 }), ...(prompt_3 && { prompt_3 }) }
  const { output_format: format, output_quality: quality } = request
  const data = await encodeImage(
    pixels,
    { format, quality },
    {
      ...(prompt_metadata !== false && prompts),
      ...{ seed, steps, guidance_scale, width, height, text_convention },
      ...(max_sequence_length && { max_sequence_length }),
      ...(strength && { strength }),
      ...{ model: manifest.model, tier: manifest.tier, package: digest, tool: manifest.tool },
    },
  )
  return { type: 'image', image, seed, width, height, content_type: CONTENT_TYPES[format], data }
}

function stopwatch(): () => number {
  const start = performance.now()
  return () => (performance.now() - start) / 1000
}

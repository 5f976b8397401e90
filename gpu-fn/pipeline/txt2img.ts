// Text, and optionally an input image, to image: tokenize, encode, condition; then noise, denoise, decode and encode the file for every image.
import type { ImageOptions, JobRequest } from '../contract.ts'
import { CONTENT_TYPES, findReusedSteps, imageOptionsOf, seedOf } from '../contract.ts'
import type { NetworkName, Package } from '../manifest.ts'
import type { Tensor } from '../runtime/session.ts'
import { settleAll } from '../runtime/settle-all.ts'
import { describeUnknown } from '../tokenizer/known-words.ts'
import { hasWeights } from '../tokenizer/prompt-weights.ts'
import { Conditions, computeConditions, modesOf } from './conditions.ts'
import { type ControlImage, type Controlnet, type Guidance, openGuidance } from './control.ts'
import { decodeLatent } from './decode.ts'
import { predictVelocity } from './denoise.ts'
import type { FinishedImage, PipelineEvent, Preview } from './events.ts'
import { encodeImage } from './image.ts'
import { createStarts, type InputImage, type Start } from './input/start.ts'
import { assertFinite } from './non-finite.ts'
import type { Pipeline } from './pipeline.ts'
import { readPosition } from './position.ts'
import { encodePreview, type PreviewFactors, removeNoise } from './preview.ts'
import { type EncodedPrompts, encodePrompts, type NamedPrompt } from './prompt/prompt.ts'
import { createScheduler, samplerOf } from './schedulers/schedulers.ts'
import { VelocityCache } from './velocity-cache.ts'

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
  | 'preview_steps'
  | 'prompt_metadata'
  | 'loras'
> &
  ImageOptions

/** Returns the result of `encode`, or an earlier one of the same key. */
export type RememberPrompts = (key: string, encode: () => Promise<EncodedPrompts>) => Promise<EncodedPrompts>

/** `controlnet`: that of the request's `controls`, with its image. `parallel`: divide the samples of guidance over the devices. */
type Options = {
  remember?: RememberPrompts
  input?: InputImage
  controlnet?: { opened: Controlnet; image: ControlImage }
  parallel?: boolean | undefined
}

/**
 * Generates `count` images; image k starts from the noise of `seed + k`, or from `input` with that noise. Guidance runs only above a scale
 * of 1. Yields after every step and checks `signal` before the next; an aborted signal throws its reason. Runs on one thread may alternate at
 * each yield. Throws `RangeError` for a size outside the model's range and
 * `BudgetError` for a size above the memory budget.
 */
export async function* txt2img(
  pipeline: Pipeline,
  request: Txt2ImgRequest,
  signal: AbortSignal,
  options: Options = {},
): AsyncGenerator<PipelineEvent> {
  const timings = { encode: 0, denoise: 0, decode: 0 }
  const hasInput = options.input !== undefined
  const encodeClock = startStopwatch()
  const { dims, start, starts, inputs, truncations } = await prepare(pipeline, request, signal, options)
  try {
    timings.encode = encodeClock()
    for (const message of truncations) yield { type: 'warning', code: 'prompt_truncated', message }
    const plain = describePlainWeights(request)
    if (plain) yield { type: 'warning', code: 'prompt_weights_ignored', message: plain }
    const unknown = pipeline.words ? describeUnknown(request.prompt, pipeline.words) : null
    if (unknown) yield { type: 'warning', code: 'prompt_words_unknown', message: unknown }
    yield { type: 'encoded', seconds: timings.encode }
    const undecoded: DenoisedImage[] = []
    for (let image = 0; image < request.count; image++) {
      const own = image === 0 ? start : await starts(image)
      undecoded.push(yield* denoiseImage(pipeline, request, { image, start: own, dims, inputs, timings, signal }))
      // If denoiser and decoder take turns in the device's memory, all images are denoised before the first is decoded.
      if (sharesMemory(pipeline) && image < request.count - 1) continue
      for (const each of undecoded.splice(0)) yield* decodeImage(pipeline, request, each, { timings, signal, hasInput })
    }
    yield { type: 'finished', timings }
  } finally {
    inputs.conditions.release()
  }
}

/** The warning for weights that are read as words; null if there are none. */
function describePlainWeights({ prompt_weights, ...request }: Txt2ImgRequest): string | null {
  const names = ['prompt', 'prompt_2', 'prompt_3', 'negative_prompt'] as const
  const weighted = prompt_weights ? [] : names.filter((name) => hasWeights(request[name] ?? ''))
  if (weighted.length === 0) return null
  return `${weighted.join(' and ')}: weights such as "(word:1.3)" are read as words; prompt_weights: true applies them`
}

type Timings = { encode: number; denoise: number; decode: number }
type Work = { timings: Timings; signal: AbortSignal }
type Latent = { data: Float32Array; dims: number[] }
type DenoisedImage = { image: number; latent: Latent }
/** Inputs of the denoiser that all images and steps share. */
type StepInputs = { conditions: Conditions; position: Tensor | undefined; guidance: Guidance | undefined }

async function prepare(
  pipeline: Pipeline,
  request: Txt2ImgRequest,
  signal: AbortSignal,
  { remember = (_, encode) => encode(), input, controlnet, parallel = false }: Options,
) {
  const { manifest } = pipeline.package
  const { dims, rows, columns } = computeLatentShape(pipeline.package, request)
  const { batched } = pipeline
  signal.throwIfAborted()
  await pipeline.fit(request)
  const weighted = request.prompt_weights ?? false
  const options = { maxTokens: request.max_sequence_length, weighted, batched, signal }
  const texts = promptsOf(request)
  const starts = createStarts(pipeline, request, { dims, input }, signal)
  const [{ prompts, truncations }, start, guidance] = await settleAll([
    remember(JSON.stringify([texts, options.maxTokens, weighted]), () =>
      encodePrompts(pipeline.encoders, manifest.text, texts, options),
    ),
    starts(0),
    controlnet && openGuidance(pipeline, controlnet.opened, controlnet.image, controlOf(request, dims), signal),
  ])
  signal.throwIfAborted()
  const { timesteps, steps } = createScheduler(request, manifest.scheduler, start.draw)
  const position = await readPosition(pipeline.package, rows, columns)
  const layers = request.skip_layer_guidance?.layers
  const control = controlnet?.opened.conditioning
  // A ControlNet is on the first device only.
  const others = parallel && !controlnet ? pipeline.others : []
  const compute = computeConditions([pipeline, ...others], prompts, { manifest, layers, batched, control, signal })
  const conditions = new Conditions({ timesteps, modes: modesOf(request, steps) }, compute, pipeline.sharing)
  await conditions.at(steps.indexOf(start.first))
  return { dims, start, starts, inputs: { conditions, position, guidance }, truncations }
}

/** The control of a request, and the shape of its latents. */
function controlOf({ steps, controls = [] }: Txt2ImgRequest, dims: readonly number[]) {
  const [choice] = controls
  if (!choice) throw new RangeError('a ControlNet is given, and the request has no controls')
  return { steps, choice, dims }
}

/** Denoises image number `image` from its start, and adds to `timings`. */
async function* denoiseImage(
  { package: pkg }: Pipeline,
  request: Txt2ImgRequest,
  {
    image,
    start,
    dims,
    inputs,
    timings,
    signal,
  }: Work & { image: number; start: Start; dims: number[]; inputs: StepInputs },
): AsyncGenerator<PipelineEvent, DenoisedImage> {
  const scheduler = createScheduler(request, pkg.manifest.scheduler, start.draw)
  const latent = { data: start.latent, dims }
  const steps = scheduler.sigmas.length - 1 - start.first
  const { guidance_scale: guidanceScale, skip_layer_guidance: skip } = request
  const { guidance } = inputs
  const options = { guidanceScale, ...(skip && { skipScale: skip.scale }), position: inputs.position, signal }
  const reused = findReusedSteps({ ...request, sampler: samplerOf(request, pkg.manifest.scheduler) }, start.first)
  const cache = new VelocityCache(scheduler)
  const compute = async (run: number) => {
    const { conditions, row } = await inputs.conditions.at(run)
    const guided = guidance?.isActive(scheduler.steps[run]!) ? { ...options, guidance } : options
    const velocity = await predictVelocity(latent, conditions, row, guided)
    if (request.cache) cache.store(run, velocity, latent.data)
    return velocity
  }
  for (let run = scheduler.steps.indexOf(start.first); run < scheduler.steps.length; run++) {
    signal.throwIfAborted()
    const denoiseClock = startStopwatch()
    const index = scheduler.steps[run]!
    const velocity = reused.has(index) ? cache.reuse(run) : await compute(run)
    await scheduler.step(velocity, run, latent.data)
    timings.denoise += denoiseClock()
    if (scheduler.steps[run + 1] === index) continue
    start.restore?.(latent.data, scheduler.sigmas[index + 1]!)
    const step = index + 1 - start.first
    yield { type: 'step', image, step, steps, ...(reused.has(index) && { reused: true }) }
    const factors = previewFactors(pkg, request.preview_steps, step, steps)
    if (factors) {
      const data = removeNoise(latent.data, velocity, scheduler.sigmas[index + 1]!)
      yield await renderPreview({ data, dims: latent.dims }, factors, image, step)
    }
  }
  assertFinite(latent.data, 'the denoised latent')
  return { image, latent }
}

/** Decodes a latent, then encodes the file, which does not use the device. */
async function* decodeImage(
  { package: pkg, vaeDecoder, plan }: Pipeline,
  request: Txt2ImgRequest,
  { image, latent }: DenoisedImage,
  { timings, signal, hasInput }: Work & { hasInput: boolean },
): AsyncGenerator<PipelineEvent> {
  signal.throwIfAborted()
  const decodeClock = startStopwatch()
  const pixels = await decodeLatent(vaeDecoder, latent, plan.tile, signal)
  timings.decode += decodeClock()
  yield { type: 'decoded', image }
  const fileClock = startStopwatch()
  const finished = await writeImage(pkg, request, pixels, { image, hasInput })
  timings.decode += fileClock()
  yield finished
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
function computeLatentShape({ manifest: { latent, position } }: Package, { width, height }: Txt2ImgRequest) {
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
  { image, hasInput }: { image: number; hasInput: boolean },
): Promise<FinishedImage> {
  const seed = seedOf(request.seed, image)
  const { prompt, negative_prompt, steps, guidance_scale, width, height, text_convention } = request
  const { prompt_2, prompt_3, prompt_metadata, loras } = request
  const prompts = { prompt, negative_prompt, ...(prompt_2 && { prompt_2 }), ...(prompt_3 && { prompt_3 }) }
  const { output_format: format, output_quality: quality } = request
  const data = await encodeImage(
    pixels,
    { format, quality, hasInput },
    {
      ...(prompt_metadata !== false && prompts),
      ...{ seed, steps, guidance_scale, width, height, text_convention },
      ...imageOptionsOf(request),
      ...(loras && { loras }),
      ...{ model: manifest.model, tier: manifest.tier, package: digest, tool: manifest.tool },
    },
  )
  return { type: 'image', image, seed, width, height, content_type: CONTENT_TYPES[format], data }
}

function startStopwatch(): () => number {
  const start = performance.now()
  return () => (performance.now() - start) / 1000
}
